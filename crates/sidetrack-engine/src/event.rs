//! Events of the kernel side: refused connections with the reason, and inspected ones.

use std::fmt;
use std::net::SocketAddr;

use sidetrack_abi::{address, kernel};
use sidetrack_policy::Layer;
use zerocopy::FromBytes;

/// An event of the kernel side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened to the connection.
    pub kind: EventKind,
    /// When it happened: CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Id of the filter that matched; 0 if none did.
    pub filter_id: u64,
    /// Id of the connection's flow. A diverted connection has its own; for another one it is the
    /// flow whose records the socket has. 0 if there is none, or none yet: a flow is made after its
    /// connect was classified.
    pub flow_id: u64,
    /// Number of the service that it is about; 0 if none.
    pub service: u32,
    /// Process of the program; 0 if it is unknown.
    pub pid: u32,
    /// User of the program.
    pub uid: u32,
    /// Task name of the program.
    pub comm: String,
    /// Name of the program's executable, without folders, at most 31 bytes; empty if it is
    /// unknown.
    pub executable: String,
    /// Where the connection goes; at the inbound layers, where it comes from.
    pub destination: SocketAddr,
    /// The other end, as far as it is known.
    pub local: SocketAddr,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// The layer that was classified.
    pub layer: Option<Layer>,
    /// The lower 16 bits of the policy's generation.
    pub generation: u16,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The service has no listener, and the filter blocks then: refused.
    AbsentBlocked,
    /// The service has no listener, and the filter was skipped.
    AbsentPermitted,
    /// The chain has 16 services, and another one matched: refused.
    ChainTooLong,
    /// A proxy connected without records: refused.
    RecordsMissing,
    /// A proxy connected with records of a flow that no longer exists: refused.
    RecordsStale,
    /// There was no room for another flow: refused.
    FlowsFull,
    /// A proxy connected to its own listener: refused.
    SelfConnect,
    /// A filter blocked it: refused.
    Blocked,
    /// A veto blocked it over a hard permit: refused.
    Vetoed,
    /// An inspect filter matched.
    Inspected,
    /// Classifying it took too many steps: refused.
    SearchCut,
    /// A proxy connected to another destination than its records allow: refused.
    RecordsBound,
    /// The last pended listener of a service has closed. [`Engine::events`](crate::Engine::events) does not
    /// return it, and resets the clients that the service held.
    PendedLeft,
    /// An event kind of a later version.
    Unknown(u32),
}

impl Event {
    /// The program's name for people: the name of its executable, or of its task if the executable
    /// is not known. The task is a thread, which many programs name after its work.
    pub fn program(&self) -> &str {
        match self.executable.as_str() {
            "" => &self.comm,
            name => name,
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (event, _) = kernel::Event::read_from_prefix(bytes).ok()?;
        let text = |field: &[u8]| String::from_utf8_lossy(address::text(field)).into_owned();
        Some(Self {
            kind: EventKind::of(event.kind),
            time: event.time,
            filter_id: event.filter_id,
            flow_id: event.flow_id,
            service: event.service,
            pid: event.pid,
            uid: event.uid,
            comm: text(&event.comm),
            executable: text(&event.executable),
            destination: address::socket_address(event.remote_addr, event.remote_port),
            local: address::socket_address(event.local_addr, event.local_port),
            protocol: event.protocol,
            layer: Layer::all().nth(event.layer.into()),
            generation: event.generation,
        })
    }
}

impl EventKind {
    fn of(number: u32) -> Self {
        match number {
            1 => Self::AbsentBlocked,
            2 => Self::AbsentPermitted,
            3 => Self::ChainTooLong,
            4 => Self::RecordsMissing,
            5 => Self::RecordsStale,
            6 => Self::FlowsFull,
            7 => Self::SelfConnect,
            8 => Self::Blocked,
            9 => Self::Vetoed,
            10 => Self::Inspected,
            11 => Self::SearchCut,
            12 => Self::RecordsBound,
            13 => Self::PendedLeft,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentBlocked => "refused: its proxy is not listening",
            Self::AbsentPermitted => "skipped a proxy that is not listening",
            Self::ChainTooLong => "refused: it has passed 16 proxies already",
            Self::RecordsMissing => "refused: the proxy connected without the redirect records",
            Self::RecordsStale => {
                "refused: its redirect records belong to a flow that no longer exists"
            }
            Self::FlowsFull => "refused: there is no room for another flow",
            Self::SelfConnect => "refused: the destination is the proxy's own listener",
            Self::Blocked => "refused by a filter",
            Self::Vetoed => "refused by a filter's veto",
            Self::Inspected => "inspected",
            Self::SearchCut => "refused: classifying it took too many steps",
            Self::RecordsBound => {
                "refused: the redirect records are bound to the flow's destination, and this is another one"
            }
            Self::PendedLeft => "the proxy has ended: what it held is reset",
            Self::Unknown(number) => return write!(f, "event {number}"),
        })
    }
}
