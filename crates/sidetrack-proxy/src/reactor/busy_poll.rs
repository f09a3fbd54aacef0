//! Waiting for epoll events, with a short busy poll before the thread sleeps.
//!
//! To put a thread to sleep and wake it again takes tens of microseconds if the processor has to
//! leave its idle state first, and more in a virtual machine. That is several times what relaying
//! one datagram takes. So if the last wait was short, the next one polls for a moment before it
//! sleeps.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event};
use rustix::io::Errno;

/// How long a wait polls before it sleeps, if the previous wait was shorter than this. Between two
/// polls the thread yields the processor. A single event costs no more than without busy polling;
/// frequent events cost at most the processor's idle time between them.
pub const BUSY_POLL_TIME: Duration = Duration::from_micros(30);
/// The number of events that one call of `epoll_wait` returns at most.
const EVENTS: usize = 256;

/// Waits for the events of one event loop.
pub(super) struct Poller {
    events: Vec<Event>,
    /// Whether the next wait begins with a busy poll: the last one returned events within
    /// [`BUSY_POLL_TIME`].
    next_is_busy: bool,
}

/// What ended a wait.
pub(super) struct Woken<'a> {
    /// None after the deadline, or if a signal interrupted the wait.
    pub(super) events: &'a [Event],
    /// When the wait ended.
    pub(super) time: Instant,
}

impl Poller {
    pub(super) fn new() -> Self {
        Self {
            events: Vec::with_capacity(EVENTS),
            next_is_busy: false,
        }
    }

    /// Waits until there are events, but no longer than until `deadline`; `None` means without a
    /// limit.
    pub(super) fn wait(
        &mut self,
        epoll: &OwnedFd,
        deadline: Option<Instant>,
    ) -> Result<Woken<'_>, Errno> {
        self.events.clear();
        let begun = Instant::now();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(begun));
        if self.next_is_busy {
            let busy_time = timeout.map_or(BUSY_POLL_TIME, |timeout| timeout.min(BUSY_POLL_TIME));
            while self.events.is_empty() && begun.elapsed() < busy_time {
                self.poll(epoll, Some(Duration::ZERO))?;
                thread::yield_now();
            }
        }
        if self.events.is_empty() {
            self.poll(epoll, timeout)?;
        }
        let time = Instant::now();
        self.next_is_busy = !self.events.is_empty() && time - begun < BUSY_POLL_TIME;
        Ok(Woken {
            events: &self.events,
            time,
        })
    }

    fn poll(&mut self, epoll: &OwnedFd, timeout: Option<Duration>) -> Result<(), Errno> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _,
            tv_nsec: timeout.subsec_nanos() as _,
        });
        match epoll::wait(epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::epoll::{CreateFlags, EventData, EventFlags};
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::{read, write};

    use super::*;

    #[test]
    fn events_arrive_with_and_without_busy_polling_and_no_wait_ends_early() {
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        epoll::add(&epoll, &event, EventData::new_u64(7), EventFlags::IN).unwrap();
        let mut poller = Poller::new();
        for round in 0..4 {
            write(&event, &1_u64.to_ne_bytes()).unwrap();
            let events = poller.wait(&epoll, None).unwrap().events;
            assert_eq!(events.len(), 1, "round {round}");
            assert_eq!(events[0].data.u64(), 7);
            read(&event, &mut [0; 8]).unwrap();
        }
        for timeout in [BUSY_POLL_TIME / 2, 20 * BUSY_POLL_TIME] {
            let begun = Instant::now();
            let woken = poller.wait(&epoll, Some(begun + timeout)).unwrap();
            assert_eq!(woken.events.len(), 0);
            assert!(begun.elapsed() >= timeout);
            assert!(!poller.next_is_busy);
        }
    }
}
