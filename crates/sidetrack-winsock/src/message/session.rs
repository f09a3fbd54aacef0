//! Whose datagrams a socket has seen.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Flows that one socket remembers. Beyond, the silent ones are forgotten; if there are none, all are, and their next
/// datagram has control data again.
const SESSIONS_MAX: usize = 65_536;
/// A flow is over after so long without a datagram, as WFP's are.
const IDLE: Duration = Duration::from_secs(60);

/// Of one UDP socket.
#[derive(Default)]
pub(crate) struct Sessions {
    pub(crate) wants_records: AtomicBool,
    pub(crate) wants_context: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// A flow's own address and its client; when its last datagram came.
    flows: HashMap<(IpAddr, SocketAddr), Instant>,
    /// Where the client's last datagram had come to.
    last: HashMap<SocketAddr, IpAddr>,
}

impl Sessions {
    /// A datagram has come: `ask` is called if it is a flow's first, one call at a time, as the kernel answers one question
    /// after the other. What it gives is handed on.
    pub(crate) fn seen<T>(
        &self,
        own: IpAddr,
        client: SocketAddr,
        ask: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = known.flows.get_mut(&(own, client)) {
            let is_alive = now.duration_since(*last) < IDLE;
            *last = now;
            if is_alive {
                known.last.insert(client, own);
                return None;
            }
        }
        let answer = ask()?;
        known.make_room(now);
        known.flows.insert((own, client), now);
        known.last.insert(client, own);
        Some(answer)
    }

    /// The address from which this client expects an answer: that of its latest flow.
    pub(crate) fn source_for(&self, client: SocketAddr) -> Option<IpAddr> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.last.get(&client).copied()
    }
}

impl Known {
    fn make_room(&mut self, now: Instant) {
        if self.flows.len() < SESSIONS_MAX {
            return;
        }
        self.flows
            .retain(|_, last| now.duration_since(*last) < IDLE);
        if self.flows.len() >= SESSIONS_MAX {
            self.flows.clear();
        }
        let flows = &self.flows;
        self.last
            .retain(|client, own| flows.contains_key(&(*own, *client)));
    }
}
