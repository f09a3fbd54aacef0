//! The connection of an explanation: as a caller describes it, and as the kernel classifies it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use sidetrack_policy::field_values::{FieldValues, Host, Program};
use sidetrack_policy::{Family, Layer, LayerKind};

/// What to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A connection that was not made.
    Connection(Connection),
    /// The connection of the flow with this id.
    Flow(u64),
}

/// A connection that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Path of the program's executable; none if it is one that no condition names.
    pub app: Option<String>,
    /// User id of the program.
    pub uid: u32,
    /// Path of the program's cgroup below the root of the hierarchy; empty for the root.
    pub cgroup: String,
    /// Local address and port; none if the socket is not bound.
    pub local: Option<SocketAddr>,
    /// The destination.
    pub remote: SocketAddr,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// Cookie of the network namespace; none for the daemon's.
    pub netns: Option<u64>,
}

/// A connection as the kernel classifies it.
pub struct ResolvedConnection {
    /// The values of all fields, as of a connect of the program.
    pub field_values: FieldValues,
    /// Finds what the paths of the policy's conditions lead to.
    pub host: Box<dyn Host>,
    /// Names of the services that have seen the connection, in order; empty if it was not made.
    pub passed: Vec<String>,
}

impl Connection {
    /// Returns the values of all fields. `program` and `netns` are what the paths and the network
    /// namespace of the connection are in the kernel.
    pub fn field_values(&self, program: Program, netns: u64) -> FieldValues {
        let unspecified = match self.remote {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let local = self.local.unwrap_or(unspecified);
        connect_values(program, local, self.remote, self.protocol, netns)
    }
}

/// Returns the values of all fields, as of a connect of the original program.
pub(super) fn connect_values(
    program: Program,
    local: SocketAddr,
    remote: SocketAddr,
    protocol: u8,
    netns: u64,
) -> FieldValues {
    FieldValues {
        layer: Layer {
            kind: LayerKind::ConnectRedirect,
            family: Family::of(remote.ip()),
        },
        current: program.clone(),
        program,
        local,
        remote,
        protocol,
        netns,
        inbound: false,
        redirected: false,
        proxied: false,
    }
}
