//! epoll on descriptors that are the caller's, signals, and the words of an OVERLAPPED that others may look at.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::abi::WSAOVERLAPPED;
use crate::memory::Place;

/// Tells the outcome: the bytes first, then the status, which a program may poll.
pub(super) fn publish(place: Place<WSAOVERLAPPED>, status: usize, bytes: usize) {
    let overlapped = place.pointer();
    // SAFETY: the place was found writable and is aligned (`Operation::new`); the C caller keeps it until the
    // operation is over. Both words are only ever written here, and read atomically by the header's macro.
    unsafe {
        let bytes_at = AtomicUsize::from_ptr(&raw mut (*overlapped).InternalHigh);
        let status_at = AtomicUsize::from_ptr(&raw mut (*overlapped).Internal);
        bytes_at.store(bytes, Ordering::Relaxed);
        status_at.store(status, Ordering::Release);
    }
}

pub(super) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    match descriptor {
        // SAFETY: it has just been made, and nobody else has it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next event is told, once; another call is needed after that. Fails with errno.
pub(super) fn watch(epoll: &OwnedFd, socket: i32, events: u32) -> Result<(), i32> {
    match control(epoll, libc::EPOLL_CTL_ADD, socket, events) {
        Err(libc::EEXIST) => control(epoll, libc::EPOLL_CTL_MOD, socket, events),
        added => added,
    }
}

pub(super) fn unwatch(epoll: &OwnedFd, socket: i32) {
    let _ = control(epoll, libc::EPOLL_CTL_DEL, socket, 0); // a closed one is gone already
}

fn control(epoll: &OwnedFd, what: i32, socket: i32, events: u32) -> Result<(), i32> {
    let mut event = libc::epoll_event {
        events: events | libc::EPOLLONESHOT as u32,
        u64: socket as u64,
    };
    // SAFETY: `event` is valid for the call; the kernel checks both descriptors.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, socket, &raw mut event) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)),
    }
}

/// Waits; then the sockets that something has happened to, at most N.
pub(super) fn happened<const N: usize>(epoll: &OwnedFd) -> Vec<i32> {
    let mut events = [const { libc::epoll_event { events: 0, u64: 0 } }; N];
    // SAFETY: `events` has N entries.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), N as i32, -1) };
    let count = usize::try_from(count).unwrap_or(0); // interrupted
    events[..count]
        .iter()
        .map(|event| event.u64 as i32)
        .collect()
}

/// Runs this with all signals blocked: a thread started meanwhile never handles the program's.
pub(super) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is filled before it is read, `before` by the call.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = start();
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    started
}
