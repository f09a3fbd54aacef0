//! The timers of an event loop: one-shot timers of fixed durations, and a check that is repeated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A one-shot timer that a handler starts.
///
/// Each kind has a fixed duration, so timers of one kind expire in the order in which they were
/// started, and starting and removing one takes constant time. A timer cannot be cancelled: the
/// handler ignores one that it does not need any more.
pub(crate) trait Timer: Copy {
    /// The duration of each kind.
    const DURATIONS: &'static [Duration];
    /// The index of this timer's kind in [`DURATIONS`](Self::DURATIONS).
    fn kind(&self) -> usize;
}

/// The timers of a handler that starts none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoTimer {}

impl Timer for NoTimer {
    const DURATIONS: &'static [Duration] = &[];

    fn kind(&self) -> usize {
        match *self {}
    }
}

/// The timers that were started and have not expired.
pub(super) struct TimerQueues<T> {
    /// For each kind, its timers and when they expire, in order of time.
    queues: Vec<VecDeque<(Instant, T)>>,
}

impl<T: Timer> TimerQueues<T> {
    pub(super) fn new() -> Self {
        let queues = T::DURATIONS.iter().map(|_| VecDeque::new()).collect();
        Self { queues }
    }

    pub(super) fn start(&mut self, timer: T) {
        let kind = timer.kind();
        let expires = Instant::now() + T::DURATIONS[kind];
        self.queues[kind].push_back((expires, timer));
    }

    /// When the next timer expires.
    pub(super) fn next(&self) -> Option<Instant> {
        let firsts = self.queues.iter().filter_map(VecDeque::front);
        firsts.map(|(expires, _)| *expires).min()
    }

    /// Removes a timer that has expired at `now`.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        self.queues.iter_mut().find_map(|queue| {
            let (expires, timer) = *queue.front()?;
            (expires <= now).then(|| queue.pop_front())?;
            Some(timer)
        })
    }
}

/// A check that is repeated while there is something to check.
pub(super) struct PeriodicCheck {
    interval: Duration,
    /// `None` while there is nothing to check.
    next: Option<Instant>,
}

impl PeriodicCheck {
    pub(super) fn new(interval: Duration) -> Self {
        let next = None;
        Self { interval, next }
    }

    /// When the check is due; `None` while it is not needed.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether the check is due at `now`; if so, the next one is due after the interval. The first
    /// one is due so long after it was found to be needed.
    pub(super) fn is_due(&mut self, now: Instant, is_needed: bool) -> bool {
        let is_due = is_needed && self.next.is_some_and(|next| next <= now);
        if !is_needed {
            self.next = None;
        } else if is_due || self.next.is_none() {
            self.next = Some(now + self.interval);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(60);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum TestTimer {
        Short(u8),
        Long(u8),
    }

    impl Timer for TestTimer {
        const DURATIONS: &'static [Duration] = &[SHORT, LONG];

        fn kind(&self) -> usize {
            match self {
                Self::Short(_) => 0,
                Self::Long(_) => 1,
            }
        }
    }

    #[test]
    fn timers_expire_once_after_their_duration() {
        let mut timers = TimerQueues::new();
        assert_eq!(timers.next(), None);
        let begun = Instant::now();
        timers.start(TestTimer::Long(1));
        timers.start(TestTimer::Short(2));
        timers.start(TestTimer::Short(3));
        let next = timers.next().unwrap();
        assert!(next >= begun + SHORT && next < begun + LONG);
        assert_eq!(timers.pop_expired(begun), None);
        let later = Instant::now() + SHORT;
        assert_eq!(timers.pop_expired(later), Some(TestTimer::Short(2)));
        assert_eq!(timers.pop_expired(later), Some(TestTimer::Short(3)));
        assert_eq!(timers.pop_expired(later), None);
        assert_eq!(
            timers.pop_expired(begun + 2 * LONG),
            Some(TestTimer::Long(1))
        );
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_check_is_repeated_while_it_is_needed() {
        let (mut check, begun) = (PeriodicCheck::new(SHORT), Instant::now());
        assert!(!check.is_due(begun, false));
        assert_eq!(check.next(), None);
        assert!(!check.is_due(begun, true));
        assert_eq!(check.next(), Some(begun + SHORT));
        assert!(!check.is_due(begun + SHORT / 2, true));
        assert!(check.is_due(begun + SHORT, true));
        assert!(!check.is_due(begun + SHORT, true));
        assert_eq!(check.next(), Some(begun + 2 * SHORT));
        assert!(!check.is_due(begun + LONG, false));
        assert_eq!(check.next(), None);
    }
}
