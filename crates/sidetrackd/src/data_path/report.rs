//! What a data path reports: its flows, events, services, and how full it is.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use sidetrack_abi::text::Printable;
use sidetrack_engine::MapUsage;
use sidetrack_engine::event::Event;
use sidetrack_policy::{Listeners, Uuid};

/// A redirected connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its number.
    pub id: u64,
    /// The time of the connect.
    pub connected: SystemTime,
    /// The original destination.
    pub remote: SocketAddr,
    /// Local address and port of the client.
    pub local: SocketAddr,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// Process id of the original program; 0 if it is unknown.
    pub pid: u32,
    /// User id of the original program.
    pub uid: u32,
    /// Name of the original program's task.
    pub comm: String,
    /// Path of the original program's executable; empty if it is unknown.
    pub app: String,
    /// Id of the original program's cgroup.
    pub cgroup_id: u64,
    /// Names of the services that have seen the connection, in order.
    pub chain: Vec<String>,
    /// Id of the filter that redirected the connection to the last service.
    pub filter_id: u64,
    /// Whether no socket refers to it any more.
    pub closed: bool,
    /// Whether the client's SYN is held until the service completes the flow.
    pub held: bool,
}

/// An event about one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionEvent {
    /// The event as the engine reports it: the service by its number, the time by the kernel's
    /// clock.
    pub event: Event,
    /// Name of the service that it is about, if it is about one that exists.
    pub service: Option<String>,
    /// The time at which it happened.
    pub time: SystemTime,
}

/// The events since an earlier call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvents {
    /// The events, in order.
    pub events: Vec<ConnectionEvent>,
    /// Number of events that came after them and were lost, because the kernel's ring buffer was
    /// full.
    pub lost: u64,
}

/// A service of the policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its number in the kernel.
    pub number: u16,
    /// Its key.
    pub key: Uuid,
    /// Its listeners now.
    pub listeners: Listeners,
}

/// How full the kernel side is, and where it is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The counters since the data path was loaded, with the names that users see.
    pub counters: Vec<(&'static str, u64)>,
    /// The use of the kernel's maps.
    pub maps: Vec<MapUsage>,
    /// Paths of the cgroups to which the kernel side is attached.
    pub cgroups: BTreeSet<PathBuf>,
    /// Memory of the policy in force, in bytes.
    pub policy_bytes: usize,
}

impl fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event {
            pid,
            destination,
            kind,
            ..
        } = &self.event;
        let program = Printable(self.event.program());
        write!(f, "connection between {program} [{pid}] and {destination}")?;
        if let Some(service) = &self.service {
            write!(f, " (service {})", Printable(service))?;
        }
        write!(f, ": {kind}")
    }
}
