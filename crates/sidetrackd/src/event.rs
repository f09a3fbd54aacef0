//! The log of events: new events go to the clients that follow them, and the last ones are kept for
//! later readers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sidetrack_abi::text::count;
use sidetrack_policy::Uuid;
use tokio::sync::broadcast;

use crate::data_path::{ConnectionEvent, Generation};

/// Number of events that are kept for later readers, and by which a following reader may lag
/// behind.
pub const EVENTS_MAX: usize = 1024;

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number since the daemon started; each event adds 1. [`EventKind::Lost`] has the last of
    /// the numbers of the events for which it stands.
    pub sequence: u64,
    /// The time at which it happened.
    pub time: SystemTime,
    /// What it is about.
    pub kind: EventKind,
    /// What happened, in one sentence.
    pub message: String,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was refused, inspected, or passed over a service.
    Connection {
        /// What the data path reports.
        event: Box<ConnectionEvent>,
        /// The filter that matched, if it is in force.
        filter: Option<FilterName>,
    },
    /// A session was opened or resumed.
    SessionOpened(SessionClient),
    /// A session ended.
    SessionEnded(SessionClient),
    /// A transaction of a session was aborted: it was held too long, or root waited to write.
    TransactionAborted(SessionClient),
    /// A policy was put in force.
    PolicyCommitted(Generation),
    /// The kernel's policy differed from the stored one and was corrected.
    Mended,
    /// This number of the kernel's events was lost, because its ring buffer was full.
    Lost(u64),
}

impl Event {
    /// Returns the number of the last event before this one.
    pub fn previous(&self) -> u64 {
        self.sequence - self.kind.numbers()
    }
}

impl EventKind {
    /// Returns how many numbers the event takes in the sequence of events.
    fn numbers(&self) -> u64 {
        match self {
            Self::Lost(lost) => *lost,
            _ => 1,
        }
    }
}

/// A filter of the policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterName {
    /// Its key.
    pub key: Uuid,
    /// Its name.
    pub name: String,
}

/// A session, with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionClient {
    /// Id of the session.
    pub session: u64,
    /// Process id of the client; 0 if it is not known.
    pub pid: u32,
    /// User id of the client.
    pub uid: u32,
}

/// The log of events. Clones are the same log.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    kept: VecDeque<Arc<Event>>,
    sequence: u64,
    sender: broadcast::Sender<Arc<Event>>,
}

impl EventLog {
    /// Adds an event that happens now.
    pub fn push(&self, kind: EventKind, message: impl Into<String>) {
        self.push_at(SystemTime::now(), kind, message.into());
    }

    /// Adds an event about a connection, with the filter that matched, if it is in force.
    pub fn push_connection(&self, event: ConnectionEvent, filter: Option<FilterName>) {
        let (time, message) = (event.time, event.to_string());
        let event = Box::new(event);
        self.push_at(time, EventKind::Connection { event, filter }, message);
    }

    /// Adds that some events of the kernel were lost; nothing if it is none.
    pub fn push_lost(&self, lost: u64) {
        if lost > 0 {
            let lost_events = count(lost, "event");
            let message = format!("{lost_events} lost, because the kernel's ring buffer was full");
            self.push(EventKind::Lost(lost), message);
        }
    }

    fn push_at(&self, time: SystemTime, kind: EventKind, message: String) {
        let mut shared = self.lock();
        shared.sequence += kind.numbers();
        let event = Arc::new(Event {
            sequence: shared.sequence,
            time,
            kind,
            message,
        });
        if shared.kept.len() == EVENTS_MAX {
            shared.kept.pop_front();
        }
        shared.kept.push_back(Arc::clone(&event));
        // It fails if there is no receiver now.
        let _ = shared.sender.send(event);
    }

    /// Returns the kept events, and a receiver of all events that follow them.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_and_numbered() {
        let log = EventLog::default();
        for _ in 0..EVENTS_MAX + 2 {
            log.push(EventKind::PolicyCommitted(1), "");
        }
        let (kept, mut receiver) = log.subscribe();
        assert_eq!(kept.len(), EVENTS_MAX);
        assert_eq!(kept[0].sequence, 3);
        log.push(EventKind::Mended, "again");
        assert_eq!(receiver.try_recv().unwrap().message, "again");
        assert!(receiver.try_recv().is_err());
    }
}
