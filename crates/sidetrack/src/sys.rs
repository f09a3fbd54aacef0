//! The system calls that socket2 has no name for; those for many datagrams at once are in
//! `datagram/ffi.rs`. All of the crate's unsafe code is in these two.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sidetrack_abi::kernel::{INFO, SOL_SIDETRACK};

/// What eBPF sees of an option's buffer at most, and so the longest answer.
const OPTION_SIZE_MAX: usize = 4096;
/// For INFO, whose answer is most likely short: the kernel clears what it is given.
static INFO_SIZE: AtomicUsize = AtomicUsize::new(1344);

/// So that the ABI's structures can be read where they lie.
#[repr(align(8))]
struct Aligned([MaybeUninit<u8>; OPTION_SIZE_MAX]);

/// Asks for an option, and hands the answer to `read` where it lies: the caller copies what it wants.
pub(crate) fn get_option<T>(
    socket: BorrowedFd<'_>,
    name: i32,
    read: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    let mut buffer = Aligned([MaybeUninit::<u8>::uninit(); OPTION_SIZE_MAX]);
    let size = match name {
        INFO => INFO_SIZE.load(Ordering::Relaxed),
        _ => OPTION_SIZE_MAX,
    };
    let mut length = size as libc::socklen_t;
    // SAFETY: `buffer` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_SIDETRACK,
            name,
            buffer.0.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (length as usize).min(size);
    // SAFETY: the kernel wrote the first `length` bytes of the buffer, and any bytes are valid as u8.
    let filled = unsafe { std::slice::from_raw_parts(buffer.0.as_ptr().cast::<u8>(), length) };
    Ok(read(filled))
}

/// From now on INFO has room for a context of 1,024 bytes.
pub(crate) fn expect_long_contexts() {
    INFO_SIZE.store(2048, Ordering::Relaxed);
}

/// Sets one of Sidetrack's own options.
pub(crate) fn set_option(socket: BorrowedFd<'_>, name: i32, value: &[u8]) -> io::Result<()> {
    set(socket, SOL_SIDETRACK, name, value)
}

/// Sets a protocol's option to 1.
pub(crate) fn set_flag(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<()> {
    set(socket, level, name, &libc::c_int::from(true).to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: `value` is readable for its length during the call; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The socket's count of datagrams for which its buffer had no room. It wraps at 2³².
pub(crate) fn drops(socket: BorrowedFd<'_>) -> u64 {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS, of SK_MEMINFO_VARS
    let mut figures = [0_u32; DROPS + 1];
    let mut length = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: `figures` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            figures.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => figures[DROPS].into(),
        _ => 0,
    }
}

/// The index of one that has something waiting. Blocks.
pub(crate) fn wait_readable(listeners: &[impl AsFd]) -> io::Result<usize> {
    let mut polled: Vec<libc::pollfd> = listeners
        .iter()
        .map(|listener| libc::pollfd {
            fd: listener.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        // SAFETY: `polled` is a valid array of its own length for the call's duration.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        match polled.iter().position(|one| one.revents != 0) {
            Some(index) if ready > 0 => return Ok(index),
            _ if ready < 0 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => {}
        }
    }
}

/// Accepts a connection whose socket does not block from the beginning.
pub(crate) fn accept_nonblocking(listener: BorrowedFd<'_>) -> io::Result<TcpStream> {
    // SAFETY: null pointers are allowed, as the peer's address is not asked for; `listener` is open as it
    // is borrowed.
    let accepted = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if accepted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { TcpStream::from_raw_fd(accepted) })
}

/// CLOCK_MONOTONIC, the clock of the kernel's flow times.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is valid for writing; CLOCK_MONOTONIC exists on every Linux, so it is filled, and
    // was zeroed before in any case.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
