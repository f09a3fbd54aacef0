//! The flows of which a service has had notices.
//!
//! A held flow is in the table as long as its `Pending` exists and its client waits. Others stay
//! for a while, so that a notice that is read late is recognised: there is one for each time that
//! the client sends its SYN.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::packet::Refusal;
use crate::Flow;

/// A client sends its SYN again, or gives up, within this time after its last SYN: the kernel waits
/// at most 120 seconds. A flow of which nothing was heard for longer has no client any more.
const SILENCE_MAX: Duration = Duration::from_secs(130);
/// How long accepted flows are remembered at least.
const ACCEPTED_MIN: Duration = Duration::from_secs(1);
/// Largest number of completed and refused flows, and also of accepted ones. If there are more, the
/// oldest are forgotten. A late notice of such a flow then looks like a new one.
const FORGOTTEN_BEYOND: usize = 65_536;

/// The flows of one service.
#[derive(Debug, Default)]
pub(super) struct Table {
    flows: HashMap<u64, Entry>,
    /// Completed and refused flows, oldest first. Some may be gone or accepted.
    settled: VecDeque<u64>,
    /// Accepted flows, oldest first.
    accepted: VecDeque<Accepted>,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// When the client's last SYN was seen.
    seen: Instant,
}

#[derive(Debug)]
enum State {
    /// A `Pending` exists. The wakers are those of tasks that wait until the client is gone.
    Held(Vec<Waker>),
    /// The next SYN is accepted. The flow, if it is known.
    Completed(Option<Flow>),
    Refused(Refusal),
    Accepted,
    /// It was completed, but nobody waits for its connection any more.
    Abandoned,
}

#[derive(Debug)]
struct Accepted {
    flow_id: u64,
    at: Instant,
    /// Up to where notices had been written. Later ones are not about this flow.
    written: usize,
}

/// What is to be done after a notice of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnSyn {
    /// It is a new flow, which is held from now on.
    Deliver,
    /// Nothing: the flow is held, or its client's SYN is accepted.
    Ignore,
    /// The refusal was lost: it must be sent again.
    Refuse(Refusal),
}

/// What a notice that a client is gone ends.
#[derive(Debug)]
pub(super) enum OnGone {
    /// A held flow. These tasks wait for it.
    Held(Vec<Waker>),
    /// A flow that was completed, and whose client will not be accepted any more.
    Completed,
    /// Nothing that the proxy still has.
    Unknown,
}

/// What is known about an accepted flow.
#[derive(Debug)]
pub(crate) enum OnAccept {
    /// It was completed, and has been queried before.
    Known(Flow),
    /// It must be queried.
    Query,
    /// Nobody waits for the connection any more: it must be closed.
    Abandoned,
}

impl Table {
    pub(super) fn on_syn(&mut self, flow_id: u64, now: Instant) -> OnSyn {
        if let Some(entry) = self.flows.get_mut(&flow_id) {
            entry.seen = now;
            return match entry.state {
                State::Refused(refusal) => OnSyn::Refuse(refusal),
                _ => OnSyn::Ignore,
            };
        }
        let state = State::Held(Vec::new());
        self.flows.insert(flow_id, Entry { state, seen: now });
        OnSyn::Deliver
    }

    pub(super) fn on_gone(&mut self, flow_id: u64) -> OnGone {
        match self.flows.remove(&flow_id).map(|entry| entry.state) {
            Some(State::Held(waiting)) => OnGone::Held(waiting),
            Some(State::Completed(_)) => OnGone::Completed,
            Some(State::Refused(_) | State::Accepted | State::Abandoned) | None => OnGone::Unknown,
        }
    }

    /// Whether the client of a held flow waits, as far as is known.
    pub(super) fn is_held(&self, flow_id: u64, now: Instant) -> bool {
        self.flows
            .get(&flow_id)
            .is_some_and(|entry| matches!(entry.state, State::Held(_)) && !entry.is_silent(now))
    }

    /// Wakes a task when the client of a held flow is gone. Returns whether it still waits.
    pub(super) fn wake_when_gone(&mut self, flow_id: u64, waker: &Waker) -> bool {
        let state = self.flows.get_mut(&flow_id).map(|entry| &mut entry.state);
        let Some(State::Held(waiting)) = state else {
            return false;
        };
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        true
    }

    /// A held flow is completed from now on. Returns `false` if its client is gone.
    pub(super) fn complete(&mut self, flow_id: u64, flow: Option<Flow>) -> bool {
        self.settle(flow_id, State::Completed(flow))
    }

    /// A held flow is refused from now on. Returns `false` if its client is gone.
    pub(super) fn refuse(&mut self, flow_id: u64, refusal: Refusal) -> bool {
        self.settle(flow_id, State::Refused(refusal))
    }

    fn settle(&mut self, flow_id: u64, state: State) -> bool {
        let Some(entry) = self.flows.get_mut(&flow_id) else {
            return false;
        };
        entry.state = state;
        self.settled.push_back(flow_id);
        true
    }

    /// A flow was accepted, when notices had been written up to the position `written`.
    pub(super) fn on_accept(&mut self, flow_id: u64, written: usize, now: Instant) -> OnAccept {
        let Some(entry) = self.flows.get_mut(&flow_id) else {
            return OnAccept::Query;
        };
        let before = std::mem::replace(&mut entry.state, State::Accepted);
        self.accepted.push_back(Accepted {
            flow_id,
            at: now,
            written,
        });
        match before {
            State::Completed(Some(flow)) => OnAccept::Known(flow),
            State::Abandoned => OnAccept::Abandoned,
            _ => OnAccept::Query,
        }
    }

    /// The connection of a completed flow must be closed if it still comes.
    pub(super) fn abandon(&mut self, flow_id: u64) {
        if let Some(entry) = self.flows.get_mut(&flow_id)
            && matches!(entry.state, State::Completed(_))
        {
            entry.state = State::Abandoned;
        }
    }

    pub(super) fn forget(&mut self, flow_id: u64) {
        self.flows.remove(&flow_id);
    }

    /// Forgets what no late notice can be about. `has_read` says whether all notices that were
    /// written before a position have been read.
    pub(super) fn expire(&mut self, now: Instant, has_read: impl Fn(usize) -> bool) {
        while let Some(oldest) = self.accepted.front() {
            let is_over = now.duration_since(oldest.at) >= ACCEPTED_MIN && has_read(oldest.written);
            if !is_over && self.accepted.len() <= FORGOTTEN_BEYOND {
                break;
            }
            self.flows.remove(&oldest.flow_id);
            self.accepted.pop_front();
        }
        while let Some(oldest) = self.settled.front() {
            match self.flows.get(oldest) {
                Some(entry) if !matches!(entry.state, State::Accepted) => {
                    if !entry.is_silent(now) && self.settled.len() <= FORGOTTEN_BEYOND {
                        break;
                    }
                    self.flows.remove(oldest);
                }
                _ => {} // gone, or in the other queue
            }
            self.settled.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }
}

impl Entry {
    fn is_silent(&self, now: Instant) -> bool {
        now.duration_since(self.seen) >= SILENCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_READ: fn(usize) -> bool = |_| true;

    #[test]
    fn a_flow_is_delivered_once() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert_eq!(table.on_syn(1, now), OnSyn::Deliver);
        assert_eq!(table.on_syn(1, now), OnSyn::Ignore);
        assert!(table.is_held(1, now) && !table.is_held(2, now));
        assert!(table.complete(1, None));
        assert_eq!(table.on_syn(1, now), OnSyn::Ignore);
        assert!(matches!(table.on_accept(1, 0, now), OnAccept::Query));
        assert_eq!(table.on_syn(1, now), OnSyn::Ignore, "a notice read late");
        assert!(matches!(table.on_gone(1), OnGone::Unknown));
    }

    #[test]
    fn a_refused_flow_is_refused_again() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.on_syn(1, now);
        assert!(table.refuse(1, Refusal::Reset));
        assert_eq!(table.on_syn(1, now), OnSyn::Refuse(Refusal::Reset));
        assert!(matches!(table.on_gone(1), OnGone::Unknown));
        assert_eq!(table.len(), 0);
        assert!(!table.refuse(1, Refusal::Reset));
    }

    #[test]
    fn a_flow_whose_client_is_gone_is_neither_held_nor_completed() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.on_syn(1, now);
        table.on_syn(2, now);
        assert!(table.complete(2, None));
        assert!(matches!(table.on_gone(1), OnGone::Held(waiting) if waiting.is_empty()));
        assert!(matches!(table.on_gone(2), OnGone::Completed));
        assert!(!table.is_held(1, now) && !table.complete(1, None));
        assert!(!table.wake_when_gone(1, Waker::noop()));
    }

    #[test]
    fn accepted_flows_are_remembered_until_older_notices_are_read() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.on_syn(1, now);
        table.complete(1, None);
        table.on_accept(1, 100, now);
        let later = now + ACCEPTED_MIN;
        table.expire(now, ALL_READ);
        assert_eq!(table.len(), 1, "too early");
        table.expire(later, |position| position <= 99);
        assert_eq!(table.len(), 1, "an older notice is unread");
        table.expire(later, |position| position <= 100);
        assert_eq!(table.len(), 0);
        assert!(table.settled.is_empty() && table.accepted.is_empty());
    }

    #[test]
    fn settled_flows_are_forgotten_after_a_long_silence() {
        let (mut table, now) = (Table::default(), Instant::now());
        for flow_id in 1..=2 {
            table.on_syn(flow_id, now);
            table.refuse(flow_id, Refusal::Silence);
        }
        table.on_syn(2, now + Duration::from_secs(100));
        table.expire(now + SILENCE_MAX - Duration::from_secs(1), ALL_READ);
        assert_eq!(table.len(), 2);
        table.expire(now + SILENCE_MAX, ALL_READ);
        assert_eq!(
            table.len(),
            1,
            "the client of the second one has sent again"
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut table, now) = (Table::default(), Instant::now());
        for flow_id in 0..2 * FORGOTTEN_BEYOND as u64 {
            table.on_syn(flow_id, now);
            table.refuse(flow_id, Refusal::Reset);
            table.expire(now, ALL_READ);
        }
        assert!(table.len() <= FORGOTTEN_BEYOND + 1, "{}", table.len());
        assert_eq!(
            table.on_syn(0, now),
            OnSyn::Deliver,
            "the oldest is forgotten"
        );
    }
}
