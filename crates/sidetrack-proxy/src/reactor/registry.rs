//! What an event loop waits for.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::Errno;

use super::timer::{Timer, TimerQueues};
use super::token::{SocketId, socket_data};

/// The sockets and timers for which an event loop waits. `S` identifies the sockets, `T` is the type
/// of the timers.
pub(crate) struct Registry<S, T> {
    epoll: OwnedFd,
    timers: TimerQueues<T>,
    now: Instant,
    sockets: PhantomData<S>,
}

impl<S: SocketId, T: Timer> Registry<S, T> {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            timers: TimerQueues::new(),
            now: Instant::now(),
            sockets: PhantomData,
        })
    }

    /// Adds a socket: from now on its `events` are reported with `id`. The kernel removes it when
    /// its last descriptor is closed.
    pub(crate) fn watch(&self, socket: impl AsFd, id: S, events: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, socket_data(id), events)
    }

    /// Starts a timer. When it expires, [`timer_expired`](super::EventHandler::timer_expired) is
    /// called.
    pub(crate) fn start_timer(&mut self, timer: T) {
        self.timers.start(timer);
    }

    /// The time at which the loop was woken. It stays the same until the next round.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// When the next timer expires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Removes a timer that has expired at `now`.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        self.timers.pop_expired(now)
    }
}
