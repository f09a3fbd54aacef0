//! The listener of an event loop: when the loop waits for it, and when not.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::token::{LISTENER_SOCKETS_MAX, listener_data};

/// How long a loop does not wait for its listener after accepting or receiving failed for a reason
/// that may pass, such as a lack of descriptors or memory. The loop's other sockets are served
/// during this time.
pub const LISTENER_PAUSE: Duration = Duration::from_millis(50);

/// What a loop does with its listener after [`listener_ready`](super::EventHandler::listener_ready).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterListener {
    /// It goes on to wait for it.
    Continue,
    /// It does not wait for it for [`LISTENER_PAUSE`].
    Pause,
    /// It does not wait for it before [`has_room`](super::EventHandler::has_room).
    WaitForRoom,
}

/// The sockets of a listener, and whether the loop waits for them.
pub(super) struct WatchedListener<'a> {
    sockets: Vec<BorrowedFd<'a>>,
    state: ListenerState,
}

/// Whether a loop waits for its listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListenerState {
    Open,
    /// Not before the handler has room.
    Full,
    /// Not before this time.
    Paused(Instant),
    /// Not any more.
    Closed,
}

impl<'a> WatchedListener<'a> {
    /// Adds the sockets to `epoll`.
    pub(super) fn new(
        sockets: impl Iterator<Item = BorrowedFd<'a>>,
        epoll: &OwnedFd,
    ) -> Result<Self, Errno> {
        let listener = Self {
            sockets: sockets.take(LISTENER_SOCKETS_MAX).collect(),
            state: ListenerState::Open,
        };
        listener.watch(epoll)?;
        Ok(listener)
    }

    /// Whether the loop waits for it.
    pub(super) fn is_open(&self) -> bool {
        self.state == ListenerState::Open
    }

    pub(super) fn act_on(&mut self, after: AfterListener, epoll: &OwnedFd) {
        match after {
            AfterListener::Continue => {}
            AfterListener::Pause => self.leave(end_of_pause(), epoll),
            AfterListener::WaitForRoom => self.leave(ListenerState::Full, epoll),
        }
    }

    /// When the pause ends; `None` if there is none.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        match self.state {
            ListenerState::Paused(until) => Some(until),
            _ => None,
        }
    }

    /// Waits for it again if it is paused and the pause has ended at `now`.
    pub(super) fn resume_if_due(&mut self, now: Instant, epoll: &OwnedFd) {
        if self.paused_until().is_some_and(|until| until <= now) {
            self.resume(epoll);
        }
    }

    /// Waits for it again if the handler had no room.
    pub(super) fn resume_if_full(&mut self, epoll: &OwnedFd) {
        if self.state == ListenerState::Full {
            self.resume(epoll);
        }
    }

    /// Does not wait for it any more.
    pub(super) fn close(&mut self, epoll: &OwnedFd) {
        self.leave(ListenerState::Closed, epoll);
    }

    fn resume(&mut self, epoll: &OwnedFd) {
        self.state = match self.watch(epoll) {
            Ok(()) => ListenerState::Open,
            Err(_) => {
                self.remove(epoll);
                end_of_pause()
            }
        };
    }

    fn watch(&self, epoll: &OwnedFd) -> Result<(), Errno> {
        // Without EXCLUSIVE each new connection would wake all loops that wait for the listener.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        for (index, socket) in self.sockets.iter().enumerate() {
            match epoll::add(epoll, socket, listener_data(index), flags) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stops waiting for it, if the loop does.
    fn leave(&mut self, state: ListenerState, epoll: &OwnedFd) {
        if self.is_open() {
            self.remove(epoll);
        }
        self.state = state;
    }

    /// Removes the sockets from `epoll`, as far as they were added.
    fn remove(&self, epoll: &OwnedFd) {
        for socket in &self.sockets {
            let _ = epoll::delete(epoll, socket); // it fails only if the socket was not added
        }
    }
}

fn end_of_pause() -> ListenerState {
    ListenerState::Paused(Instant::now() + LISTENER_PAUSE)
}
