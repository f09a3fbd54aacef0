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

/// Arms sockets of an event loop.
pub(crate) struct Arm<S> {
    epoll: OwnedFd,
    sockets: PhantomData<fn(S)>,
}

impl<S: SocketId> Arm<S> {
    /// Makes the loop wait for a socket that was added with this id, until its next event.
    pub(crate) fn arm(&self, socket: impl AsFd, id: S) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        epoll::modify(&self.epoll, socket, socket_data(id), flags)
    }
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

    /// Adds a socket that is not waited for until it is [armed](Arm::arm).
    pub(crate) fn watch_disarmed(&self, socket: impl AsFd, id: S) -> Result<(), Errno> {
        self.watch(socket, id, EventFlags::ONESHOT)
    }

    /// A handle by which other threads can arm sockets of this loop.
    pub(crate) fn arm(&self) -> Result<Arm<S>, Errno> {
        Ok(Arm {
            epoll: rustix::io::dup(&self.epoll)?,
            sockets: PhantomData,
        })
    }

    /// Removes a socket.
    pub(crate) fn unwatch(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket); // it fails only if the socket was not added
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
