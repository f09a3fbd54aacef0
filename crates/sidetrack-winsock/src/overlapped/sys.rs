//! epoll on the caller's descriptors, signal masks, and the words of an OVERLAPPED that the program
//! may poll.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::abi::WSAOVERLAPPED;
use crate::memory::CallerPointer;

/// Stores the outcome of an operation: first the number of bytes, then the status, which a program
/// may poll.
pub(super) fn publish(pointer: CallerPointer<WSAOVERLAPPED>, status: usize, bytes: usize) {
    let overlapped = pointer.pointer();
    // SAFETY: the pointer was found writable and is aligned (`Operation::new`); the C caller keeps
    // it until the operation is over. Only this function writes the two words, and the header's
    // macro reads them atomically.
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
        // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Watches a socket for its next event. To be called again for the event after that. Fails with
/// errno.
pub(super) fn watch(epoll: &OwnedFd, socket: i32, events: u32) -> Result<(), i32> {
    match control(epoll, libc::EPOLL_CTL_ADD, socket, events) {
        Err(libc::EEXIST) => control(epoll, libc::EPOLL_CTL_MOD, socket, events),
        added => added,
    }
}

pub(super) fn unwatch(epoll: &OwnedFd, socket: i32) {
    let _ = control(epoll, libc::EPOLL_CTL_DEL, socket, 0); // a closed socket has already left the set
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

/// Waits for events, and returns the sockets that have one: at most N.
pub(super) fn ready_sockets<const N: usize>(epoll: &OwnedFd) -> Vec<i32> {
    let mut events = [const { libc::epoll_event { events: 0, u64: 0 } }; N];
    // SAFETY: `events` has N entries.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), N as i32, -1) };
    let count = usize::try_from(count).unwrap_or(0); // negative if a signal has interrupted it
    events[..count]
        .iter()
        .map(|event| event.u64 as i32)
        .collect()
}

/// Calls `start` with all signals blocked, so that a thread started in it never handles the
/// program's signals.
pub(super) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is filled before it is read; the call fills `before`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = start();
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    started
}
