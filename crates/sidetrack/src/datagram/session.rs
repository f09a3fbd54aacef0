//! The flows that a listener has been told of.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Flow;

/// Flows remembered. Beyond, the silent ones are forgotten, and then asked about again.
const SESSIONS_MAX: usize = 65_536;
/// Without a datagram a flow ends (specification, 2.4).
const IDLE: Duration = Duration::from_secs(60);

/// The address a flow's datagrams come to, and where they come from.
type Key = (IpAddr, SocketAddr);

#[derive(Debug, Default)]
pub(super) struct Sessions {
    flows: HashMap<Key, Session>,
}

#[derive(Debug)]
struct Session {
    flow: Arc<Flow>,
    seen: Instant,
}

impl Sessions {
    /// The flow of a datagram that came at `now`; none if it is not known, or has been idle too long.
    pub(super) fn find(&mut self, key: Key, now: Instant) -> Option<Arc<Flow>> {
        let session = self.flows.get_mut(&key)?;
        if now.duration_since(session.seen) >= IDLE {
            return None;
        }
        session.seen = now;
        Some(Arc::clone(&session.flow))
    }

    pub(super) fn add(&mut self, key: Key, flow: Flow, now: Instant) -> Arc<Flow> {
        if self.flows.len() >= SESSIONS_MAX {
            self.make_room(now);
        }
        let flow = Arc::new(flow);
        let session = Session {
            flow: Arc::clone(&flow),
            seen: now,
        };
        self.flows.insert(key, session);
        flow
    }

    pub(super) fn forget(&mut self, flow: &Flow) {
        self.flows.remove(&(flow.own_address().ip(), flow.client()));
    }

    /// Forgets the idle ones; if there are few, the half that has been silent longest.
    fn make_room(&mut self, now: Instant) {
        self.flows
            .retain(|_, session| now.duration_since(session.seen) < IDLE);
        if self.flows.len() > SESSIONS_MAX / 2 {
            let mut seen: Vec<Instant> = self.flows.values().map(|one| one.seen).collect();
            let (_, &mut median, _) = seen.select_nth_unstable(SESSIONS_MAX / 2);
            self.flows.retain(|_, session| session.seen > median);
        }
    }
}
