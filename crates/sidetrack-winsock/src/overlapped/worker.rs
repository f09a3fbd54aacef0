//! The thread that waits for events of all sockets with pending operations. It starts with the
//! first such operation.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread;

use super::sys;
use crate::attempt::Interest;
use crate::call;
use crate::error::{WSAENOBUFS, WinsockError, WinsockResult};

/// Number of sockets handled after one wait.
const BATCH: usize = 64;

static EPOLL: OnceLock<OwnedFd> = OnceLock::new();

/// Makes the next of these events on the socket lead to one call of [`super::PendingTable::retry`].
pub(super) fn watch(socket: i32, interests: Vec<Interest>) -> WinsockResult<()> {
    let epoll = start_once()?;
    let events = (interests.iter()).fold(0, |events, interest| {
        events | interest.events().cast_unsigned()
    });
    sys::watch(epoll, socket, events.into()).map_err(WinsockError::from_errno)
}

/// Stops to watch a socket that has no pending operation any more.
pub(super) fn unwatch(socket: i32) {
    if let Some(epoll) = EPOLL.get() {
        sys::unwatch(epoll, socket);
    }
}

/// Starts the thread if it does not run. The caller holds the lock of the table, so it is started
/// only once.
fn start_once() -> WinsockResult<&'static OwnedFd> {
    if let Some(epoll) = EPOLL.get() {
        return Ok(epoll);
    }
    let made = sys::epoll().map_err(|_| WinsockError(WSAENOBUFS))?;
    let epoll = EPOLL.get_or_init(|| made);
    let started = sys::without_signals(|| {
        let worker = thread::Builder::new().name("sidetrack-wsa".into());
        worker.spawn(move || run(epoll))
    });
    started.map(|_| epoll).map_err(|_| WinsockError(WSAENOBUFS))
}

fn run(epoll: &OwnedFd) {
    loop {
        for socket in sys::ready_sockets::<BATCH>(epoll) {
            let retried = call::guard_always(|| {
                if let Some(pending) = super::lock().as_mut() {
                    pending.retry(socket);
                }
                Ok(())
            });
            let _ = retried; // a panic must not end the thread, which other operations need
        }
    }
}
