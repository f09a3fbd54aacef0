//! What the calls of a connection are waiting for, by which the server closes connections on which
//! nothing happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take until its first call.
pub const FIRST_CALL_MAX: Duration = Duration::from_secs(10);
/// How long a connection of a user who may not read may be without a call.
pub const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long an answer may wait until its client reads on. It does not apply to sessions and
/// streams of events, which wait for what happens.
pub const UNREAD_MAX: Duration = Duration::from_secs(30);

/// What the calls of a connection are waiting for.
#[derive(Debug)]
pub(super) struct Activity {
    /// Whether the connection may be without a call after its first one.
    may_idle: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Number of calls in progress.
    calls: usize,
    /// Number of calls so far.
    begun: u64,
    /// The time since which there has been no call.
    idle_since: Instant,
    /// The calls whose answers wait for the client, with the times since which they do.
    unread: HashMap<u64, Instant>,
}

/// A call in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveCall {
    activity: Arc<Activity>,
    number: u64,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overdue {
    #[error("it made no call within {} s", FIRST_CALL_MAX.as_secs())]
    FirstCall,
    #[error("it made no call for {} s", IDLE_MAX.as_secs())]
    Idle,
    #[error("it did not read an answer for {} s", UNREAD_MAX.as_secs())]
    Unread,
}

impl Activity {
    pub(super) fn new(may_idle: bool) -> Arc<Self> {
        Arc::new(Self {
            may_idle,
            state: Mutex::new(State {
                calls: 0,
                begun: 0,
                idle_since: Instant::now(),
                unread: HashMap::new(),
            }),
        })
    }

    /// Counts a call as in progress.
    pub(super) fn begin(self: &Arc<Self>) -> ActiveCall {
        let mut state = self.lock();
        state.calls += 1;
        state.begun += 1;
        ActiveCall {
            activity: Arc::clone(self),
            number: state.begun,
        }
    }

    /// Waits until the connection must be closed, and returns why.
    pub(super) async fn overdue(&self) -> Overdue {
        let mut interval = tokio::time::interval(FIRST_CALL_MAX);
        interval.tick().await;
        loop {
            interval.tick().await;
            if let Some(overdue) = self.overdue_at(Instant::now()) {
                return overdue;
            }
        }
    }

    pub(super) fn overdue_at(&self, now: Instant) -> Option<Overdue> {
        let state = self.lock();
        let unread = state.unread.values().min();
        if unread.is_some_and(|since| now.duration_since(*since) >= UNREAD_MAX) {
            return Some(Overdue::Unread);
        }
        let idle = now.duration_since(state.idle_since);
        match state.calls {
            0 if state.begun == 0 => (idle >= FIRST_CALL_MAX).then_some(Overdue::FirstCall),
            0 if !self.may_idle => (idle >= IDLE_MAX).then_some(Overdue::Idle),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveCall {
    /// Notes that the answer waits until the client reads on.
    pub(super) fn waits_for_client(&self) {
        let mut state = self.activity.lock();
        state.unread.insert(self.number, Instant::now());
    }

    /// Notes that the client has read the answer so far.
    pub(super) fn is_read(&self) {
        self.activity.lock().unread.remove(&self.number);
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.unread.remove(&self.number);
        state.calls -= 1;
        state.idle_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_must_call_and_read() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        for may_idle in [false, true] {
            let activity = Activity::new(may_idle);
            assert_eq!(activity.overdue_at(after(9)), None);
            assert_eq!(activity.overdue_at(after(11)), Some(Overdue::FirstCall));
            let call = activity.begin();
            assert_eq!(activity.overdue_at(after(3600)), None);
            call.waits_for_client();
            assert_eq!(activity.overdue_at(after(29)), None);
            assert_eq!(activity.overdue_at(after(31)), Some(Overdue::Unread));
            call.is_read();
            assert_eq!(activity.overdue_at(after(3600)), None);
            call.waits_for_client();
            drop(call);
            let idle = (!may_idle).then_some(Overdue::Idle);
            assert_eq!(activity.overdue_at(after(9)), None);
            assert_eq!(activity.overdue_at(after(3600)), idle);
        }
    }
}
