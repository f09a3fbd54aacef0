//! What a data path reports: its flows, events, services, and how full it is.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use sidetrack_engine::MapUsage;
use sidetrack_engine::event::Event;
use sidetrack_policy::{Family, Uuid};

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

/// A service of the policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its number in the kernel.
    pub number: u16,
    /// Its key.
    pub key: Uuid,
    /// Number of its TCP listeners for IPv4.
    pub listeners_v4: u32,
    /// Number of its TCP listeners for IPv6.
    pub listeners_v6: u32,
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

impl ServiceStatus {
    /// Returns whether the service has a TCP listener.
    pub fn is_listening(&self) -> bool {
        self.listeners_v4 + self.listeners_v6 > 0
    }

    /// Returns whether the service has no TCP listener for a family. UDP listeners are not considered.
    pub fn is_absent(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.listeners_v4 == 0,
            Family::V6 => self.listeners_v6 == 0,
        }
    }
}

impl fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event {
            comm,
            pid,
            destination,
            kind,
            ..
        } = &self.event;
        write!(f, "connection between {comm} [{pid}] and {destination}")?;
        if let Some(service) = &self.service {
            write!(f, " (service {service})")?;
        }
        write!(f, ": {kind}")
    }
}
