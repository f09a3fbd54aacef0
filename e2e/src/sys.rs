//! System calls without a wrapper, for tests that check every byte and error number of their results.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// All that a program can see of a getsockopt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0, or the error number.
    pub errno: i32,
    /// The length as the kernel has set it.
    pub length: u32,
    /// The whole buffer, with what follows the answer.
    pub buffer: Vec<u8>,
}

/// Calls getsockopt with a buffer of this size that is filled with 0xa5.
pub fn get_option(socket: impl AsFd, level: i32, name: i32, size: usize) -> Answer {
    let mut buffer = vec![0xa5_u8; size];
    let mut length = size as libc::socklen_t;
    // SAFETY: `buffer` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; the socket is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            buffer.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    Answer {
        errno: errno_of(result),
        length,
        buffer,
    }
}

/// Calls setsockopt. Returns 0, or the error number.
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: &[u8]) -> i32 {
    // SAFETY: `value` is readable for its length during the call; the socket is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast::<c_void>(),
            value.len() as libc::socklen_t,
        )
    };
    errno_of(result)
}

/// Moves this thread, and those that it starts, into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// Moves this thread, and those that it starts, into a new mount namespace.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

fn unshare(namespace: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes no pointers, and moves only this thread.
    match unsafe { libc::unshare(namespace) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn errno_of(result: libc::c_int) -> i32 {
    match result {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    }
}
