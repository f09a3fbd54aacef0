//! Pended connects: the client's SYN is held until the proxy knows whether the origin accepts.
//!
//! The kernel side writes a notice of each held SYN to the service's ring buffer (`ring.rs`). The
//! flows of the notices are in a table (`table.rs`), so that each is delivered once. The listener
//! makes a [`Pending`] of each, which is completed or refused by a packet (`packet.rs`) that a
//! sender sends. A completed flow's connection then comes through the accept queue
//! (`arrivals.rs`). docs/pended.md describes the protocol.

mod arrivals;
mod expected;
mod notices;
mod packet;
mod pending;
mod ring;
mod table;

use std::fmt;

pub(crate) use self::arrivals::{Arrivals, Arrived, Others};
#[cfg(feature = "tokio")]
pub(crate) use self::expected::{ACCEPT_MAX, Expected};
pub(crate) use self::notices::{Noticed, Notices};
pub use self::pending::Pending;
pub(crate) use self::table::OnAccept;

/// What [`Listener::try_pended`](crate::Listener::try_pended) returns.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // it is taken apart at once
pub enum Notice {
    /// A client's connect is held, and waits for its answer.
    Pending(Pending),
    /// The client of a flow with this id is gone: it closed its socket, or its time-out is over.
    /// Only for flows that are held, or that were completed and have not been accepted.
    Gone(u64),
}

/// The reason why a listener accepts first although its service asked for pended connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyAccepted {
    /// The proxy was not given the service's ring buffer and senders.
    NoDescriptors,
    /// What the proxy was given are not a ring buffer of notices and raw sockets, or no longer.
    BadDescriptors,
    /// The policy says that the service accepts (`connect = "accepted"`).
    ServiceAccepts,
}

impl fmt::Display for WhyAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDescriptors => {
                "connects are accepted first: the proxy was given no ring buffer of notices and no senders"
            }
            Self::BadDescriptors => {
                "connects are accepted first: the descriptors that the proxy was given are not open, or not a \
                 ring buffer of notices and senders"
            }
            Self::ServiceAccepts => {
                "connects are accepted first: the policy does not say connect = \"pended\" for this service"
            }
        })
    }
}
