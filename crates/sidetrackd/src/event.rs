//! The log of events: new events go to the clients that follow them, and the last ones are kept for
//! later readers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sidetrack_api::v1;
use tokio::sync::broadcast;

/// Number of events that are kept for later readers, and by which a following reader may lag
/// behind.
pub const EVENTS_MAX: usize = 1024;

/// The log of events. Clones are the same log.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    kept: VecDeque<Arc<v1::Event>>,
    sequence: u64,
    sender: broadcast::Sender<Arc<v1::Event>>,
}

impl EventLog {
    /// Adds an event. Sets its sequence number and, if it has no time, the current time.
    pub fn push(&self, mut event: v1::Event) {
        let mut shared = self.lock();
        shared.sequence += 1;
        event.sequence = shared.sequence;
        if event.time_unix_ns == 0 {
            event.time_unix_ns = unix_ns(SystemTime::now());
        }
        let event = Arc::new(event);
        if shared.kept.len() == EVENTS_MAX {
            shared.kept.pop_front();
        }
        shared.kept.push_back(Arc::clone(&event));
        // It fails if there is no receiver now.
        let _ = shared.sender.send(event);
    }

    /// Adds an event that has only a kind and a message.
    pub fn push_message(&self, kind: v1::EventKind, message: impl Into<String>) {
        self.push(v1::Event {
            kind: kind.into(),
            message: message.into(),
            ..v1::Event::default()
        });
    }

    /// Returns the kept events, and a receiver of all events that follow them.
    pub fn subscribe(&self) -> (Vec<Arc<v1::Event>>, broadcast::Receiver<Arc<v1::Event>>) {
        let shared = self.lock();
        let kept = shared.kept.iter().cloned().collect();
        (kept, shared.sender.subscribe())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                kept: VecDeque::new(),
                sequence: 0,
                sender: broadcast::Sender::new(EVENTS_MAX),
            })),
        }
    }
}

/// Converts a time to nanoseconds since 1970-01-01 00:00 UTC. Earlier times become 0.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_and_numbered() {
        let log = EventLog::default();
        for _ in 0..EVENTS_MAX + 2 {
            log.push_message(v1::EventKind::PolicyCommitted, "");
        }
        let (kept, mut receiver) = log.subscribe();
        assert_eq!(kept.len(), EVENTS_MAX);
        assert_eq!(kept[0].sequence, 3);
        log.push_message(v1::EventKind::Mended, "again");
        assert_eq!(receiver.try_recv().unwrap().message, "again");
        assert!(receiver.try_recv().is_err());
    }
}
