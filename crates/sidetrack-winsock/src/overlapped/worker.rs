//! The one thread that waits for all sockets with something pending. It starts with the first.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread;

use super::sys;
use crate::call;
use crate::error::{Fault, Reply, WSAENOBUFS};
use crate::question::Interest;

/// Sockets looked at in one turn.
const BATCH: usize = 64;

static EPOLL: OnceLock<OwnedFd> = OnceLock::new();

/// The next of these on the socket leads to [`super::Pending::proceed`], once.
pub(super) fn watch(socket: i32, interests: Vec<Interest>) -> Reply<()> {
    let epoll = started()?;
    let events = (interests.iter()).fold(0, |events, interest| {
        events | interest.events().cast_unsigned()
    });
    sys::watch(epoll, socket, events.into()).map_err(Fault::of_errno)
}

/// Nothing is pending there any more.
pub(super) fn unwatch(socket: i32) {
    if let Some(epoll) = EPOLL.get() {
        sys::unwatch(epoll, socket);
    }
}

/// The lock is held, so there is one only.
fn started() -> Reply<&'static OwnedFd> {
    if let Some(epoll) = EPOLL.get() {
        return Ok(epoll);
    }
    let made = sys::epoll().map_err(|_| Fault(WSAENOBUFS))?;
    let epoll = EPOLL.get_or_init(|| made);
    let started = sys::without_signals(|| {
        let worker = thread::Builder::new().name("sidetrack-wsa".into());
        worker.spawn(move || work(epoll))
    });
    started.map(|_| epoll).map_err(|_| Fault(WSAENOBUFS))
}

fn work(epoll: &OwnedFd) {
    loop {
        for socket in sys::happened::<BATCH>(epoll) {
            let proceeded = call::guard_always(|| {
                if let Some(pending) = super::lock().as_mut() {
                    pending.proceed(socket);
                }
                Ok(())
            });
            let _ = proceeded; // a panic must not end the thread: others are pending
        }
    }
}
