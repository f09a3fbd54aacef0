//! System calls that socket2 does not wrap. The calls for several datagrams at once are in
//! `datagram/ffi.rs`. All unsafe code of the crate for Linux is in these two files.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sidetrack_abi::kernel::{INFO, SOL_SIDETRACK};

/// Largest option buffer that an eBPF program can see, and therefore the longest possible answer,
/// in bytes.
const OPTION_SIZE_MAX: usize = 4096;
/// Buffer size for INFO, in bytes: room for `Info` and a context of 320 bytes. It is smaller than
/// `OPTION_SIZE_MAX` because most answers are short and the kernel clears the whole buffer first.
static INFO_SIZE: AtomicUsize = AtomicUsize::new(1344);

/// A buffer that is aligned so that the ABI's structures can be read in place.
#[repr(align(8))]
struct Aligned([MaybeUninit<u8>; OPTION_SIZE_MAX]);

/// Gets one of Sidetrack's options and passes the answer to `read` as a borrowed buffer, so that
/// the caller copies only what it needs.
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
    // SAFETY: `buffer` is writable for `length` bytes, and `length` is a valid pointer, both for
    // the call's duration; `socket` is open as it is borrowed.
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
    // SAFETY: the kernel wrote the first `length` bytes of the buffer, and any bytes are valid as
    // u8.
    let filled = unsafe { std::slice::from_raw_parts(buffer.0.as_ptr().cast::<u8>(), length) };
    Ok(read(filled))
}

/// Increases the buffer for INFO, from now on, to room for a context of 1,024 bytes.
pub(crate) fn expect_long_contexts() {
    INFO_SIZE.store(2048, Ordering::Relaxed);
}

/// Sets one of Sidetrack's options (level `SOL_SIDETRACK`).
pub(crate) fn set_option(socket: BorrowedFd<'_>, name: i32, value: &[u8]) -> io::Result<()> {
    set(socket, SOL_SIDETRACK, name, value)
}

/// Sets an option of another level to the integer 1.
pub(crate) fn set_flag(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<()> {
    set(socket, level, name, &libc::c_int::from(true).to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: `value` is readable for its length during the call; `socket` is open as it is
    // borrowed.
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

/// Number of datagrams that the kernel dropped because the socket's receive buffer was full. The
/// counter wraps at 2³².
pub(crate) fn drops(socket: BorrowedFd<'_>) -> u64 {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS of linux/sock_diag.h
    let mut figures = [0_u32; DROPS + 1];
    let mut length = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: `figures` is writable for `length` bytes, and `length` is a valid pointer, both for
    // the call's duration; `socket` is open as it is borrowed.
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

/// Waits until one of the sockets has something to read, and returns its index.
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
        // SAFETY: `polled` is a valid array of this length for the call's duration.
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

/// Accepts a connection with a socket that is non-blocking from its creation.
pub(crate) fn accept_nonblocking(listener: BorrowedFd<'_>) -> io::Result<TcpStream> {
    // SAFETY: null pointers are allowed, as the peer's address is not requested; `listener` is open
    // as it is borrowed.
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
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { TcpStream::from_raw_fd(accepted) })
}

/// The current time of CLOCK_MONOTONIC, the clock of `connected_at` in a flow.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is valid for writing. CLOCK_MONOTONIC exists on every Linux, so the call fills
    // it; it was zeroed before in any case.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
