//! The flows that a UDP listener knows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Flow;

/// Largest number of flows in the table. If it is full, flows without recent datagrams are removed;
/// their next datagram queries the kernel again.
const FLOWS_MAX: usize = 65_536;
/// A flow ends after this time without a datagram (docs/wfp.md, 2.4).
const IDLE: Duration = Duration::from_secs(60);

/// The address at which the flow's datagrams arrive, and the address of the client.
type Key = (IpAddr, SocketAddr);

/// The flows of one listener.
#[derive(Debug, Default)]
pub(super) struct FlowTable {
    flows: HashMap<Key, FlowEntry>,
}

/// A flow, and the time of its last datagram.
#[derive(Debug)]
struct FlowEntry {
    flow: Arc<Flow>,
    seen: Instant,
}

impl FlowTable {
    /// The flow of a datagram that arrived at `now`. `None` if it is not in the table, or had no
    /// datagram for the time [`IDLE`].
    pub(super) fn find(&mut self, key: Key, now: Instant) -> Option<Arc<Flow>> {
        let entry = self.flows.get_mut(&key)?;
        if now.duration_since(entry.seen) >= IDLE {
            return None;
        }
        entry.seen = now;
        Some(Arc::clone(&entry.flow))
    }

    pub(super) fn add(&mut self, key: Key, flow: Flow, now: Instant) -> Arc<Flow> {
        if self.flows.len() >= FLOWS_MAX {
            self.make_room(now);
        }
        let flow = Arc::new(flow);
        let entry = FlowEntry {
            flow: Arc::clone(&flow),
            seen: now,
        };
        self.flows.insert(key, entry);
        flow
    }

    pub(super) fn forget(&mut self, flow: &Flow) {
        self.flows.remove(&(flow.own_address().ip(), flow.client()));
    }

    /// Removes idle flows. If more than half of the table is left, removes those whose last
    /// datagram is older than the median.
    fn make_room(&mut self, now: Instant) {
        self.flows
            .retain(|_, entry| now.duration_since(entry.seen) < IDLE);
        if self.flows.len() > FLOWS_MAX / 2 {
            let mut seen: Vec<Instant> = self.flows.values().map(|one| one.seen).collect();
            let (_, &mut median, _) = seen.select_nth_unstable(FLOWS_MAX / 2);
            self.flows.retain(|_, entry| entry.seen > median);
        }
    }
}
