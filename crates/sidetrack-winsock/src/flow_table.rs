//! The flows that a UDP socket knows. `socket` keeps the table and does not read it; `message` fills
//! it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest number of flows in the table of one socket. If it is full, idle flows are removed; if
/// none is idle, all are. The next datagram of a removed flow has control data again.
const FLOWS_MAX: usize = 65_536;
/// A flow ends after this time without a datagram, as in WFP (docs/wfp.md, 2.4).
const IDLE: Duration = Duration::from_secs(60);

/// The flows of one UDP socket, and the options that the socket has.
#[derive(Default)]
pub(crate) struct FlowTable {
    /// Whether the socket has the option IP_WFP_REDIRECT_RECORDS.
    pub(crate) wants_records: AtomicBool,
    /// Whether the socket has the option IP_WFP_REDIRECT_CONTEXT.
    pub(crate) wants_context: AtomicBool,
    entries: Mutex<FlowEntries>,
}

#[derive(Default)]
struct FlowEntries {
    /// The time of the last datagram, by the flow's own address and the client.
    flows: HashMap<(IpAddr, SocketAddr), Instant>,
    /// The flow's own address to which the last datagram of a client came, by client.
    last: HashMap<SocketAddr, IpAddr>,
}

impl FlowTable {
    /// Notes a datagram. If it is the first of its flow, calls `query` and returns its result.
    /// There is only one call of `query` at a time, because the option DATAGRAM is state of the
    /// socket.
    pub(crate) fn note_datagram<T>(
        &self,
        own: IpAddr,
        client: SocketAddr,
        query: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = entries.flows.get_mut(&(own, client)) {
            let is_alive = now.duration_since(*last) < IDLE;
            *last = now;
            if is_alive {
                entries.last.insert(client, own);
                return None;
            }
        }
        let answer = query()?;
        entries.make_room(now);
        entries.flows.insert((own, client), now);
        entries.last.insert(client, own);
        Some(answer)
    }

    /// The source address that a client expects in an answer: the own address of its latest flow.
    pub(crate) fn source_for(&self, client: SocketAddr) -> Option<IpAddr> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.last.get(&client).copied()
    }
}

impl FlowEntries {
    /// Removes flows if the table is full.
    fn make_room(&mut self, now: Instant) {
        if self.flows.len() < FLOWS_MAX {
            return;
        }
        self.flows
            .retain(|_, last| now.duration_since(*last) < IDLE);
        if self.flows.len() >= FLOWS_MAX {
            self.flows.clear();
        }
        let flows = &self.flows;
        self.last
            .retain(|client, own| flows.contains_key(&(*own, *client)));
    }
}
