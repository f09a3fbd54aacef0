//! What the kernel side tells besides: refused connections, and why.

use std::fmt;
use std::net::SocketAddr;

use sidetrack_abi::{address, kernel};
use sidetrack_policy::Layer;
use zerocopy::FromBytes;

/// Something an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// The filter that matched; 0 if none had.
    pub filter_id: u64,
    /// The service it matched for; 0 if none.
    pub service: u32,
    /// Who connected.
    pub pid: u32,
    /// Who connected.
    pub uid: u32,
    /// Who connected.
    pub comm: String,
    /// Where to; at the inbound layers, where from.
    pub destination: SocketAddr,
    /// The other end, as far as it was known.
    pub local: SocketAddr,
    /// IPPROTO_TCP, IPPROTO_UDP.
    pub protocol: u8,
    /// The layer that asked.
    pub layer: Option<Layer>,
    /// Of the policy that judged; its lower 16 bits.
    pub generation: u16,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The service has no listener, and the filter says block.
    AbsentBlocked,
    /// The service has no listener, and the filter was passed over.
    AbsentPermitted,
    /// The chain has 16 services, and another one matched.
    ChainTooLong,
    /// A proxy connected without the records.
    RecordsMissing,
    /// A proxy connected with records of a flow that is gone.
    RecordsStale,
    /// No room for another flow.
    FlowsFull,
    /// A proxy connected to its own listener.
    SelfConnect,
    /// A filter blocked it.
    Blocked,
    /// A filter blocked it over a hard permit.
    Vetoed,
    /// A filter asked to be told.
    Inspected,
    /// The policy took too many steps to judge it.
    SearchCut,
    /// Of a later version.
    Unknown(u32),
}

impl Event {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (event, _) = kernel::Event::read_from_prefix(bytes).ok()?;
        Some(Self {
            kind: EventKind::of(event.kind),
            time: event.time,
            filter_id: event.filter_id,
            service: event.service,
            pid: event.pid,
            uid: event.uid,
            comm: String::from_utf8_lossy(address::text(&event.comm)).into_owned(),
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
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentBlocked => "refused: its proxy is not listening",
            Self::AbsentPermitted => "went past a proxy that is not listening",
            Self::ChainTooLong => "refused: 16 proxies have seen it already",
            Self::RecordsMissing => "refused: the proxy connected without the redirect records",
            Self::RecordsStale => "refused: its redirect records are of a flow that is gone",
            Self::FlowsFull => "refused: there is no room for another flow",
            Self::SelfConnect => "refused: it is the proxy's own listener, and would go in circles",
            Self::Blocked => "refused by a filter",
            Self::Vetoed => "refused by a filter's veto",
            Self::Inspected => "seen",
            Self::SearchCut => "refused: the policy took too many steps",
            Self::Unknown(number) => return write!(f, "event {number}"),
        })
    }
}
