//! System calls that socket2 does not wrap. The calls for several datagrams at once are in
//! `datagram/ffi.rs`, the memory of a ring buffer is in `pended/ring/ffi.rs`. All unsafe code of the
//! crate for Linux is in these three files.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sidetrack_abi::kernel::{INFO, RECORDS, Records, SOL_SIDETRACK};

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
        RECORDS => size_of::<Records>(),
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

/// Waits until one of the descriptors has something to read, and returns its index.
pub(crate) fn wait_readable(descriptors: &[impl AsFd]) -> io::Result<usize> {
    loop {
        if let Some(ready) = wait_readable_until(descriptors, None)? {
            return Ok(ready);
        }
    }
}

/// As [`wait_readable`]. Returns `None` when the deadline is over, or, rarely, before.
pub(crate) fn wait_readable_until(
    descriptors: &[impl AsFd],
    deadline: Option<Instant>,
) -> io::Result<Option<usize>> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd {
            fd: descriptor.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let milliseconds = deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    });
    // SAFETY: `polled` is a valid array of this length for the call's duration.
    let ready = unsafe {
        libc::poll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            milliseconds,
        )
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    }
    Ok(polled.iter().position(|one| one.revents != 0))
}

/// Creates a counter: a write of an integer adds to it, a read takes one, and it is readable while it
/// is not 0.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: the call has no pointers.
    let created = unsafe {
        libc::eventfd(
            0,
            libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK | libc::EFD_CLOEXEC,
        )
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(created) })
}

/// Duplicates a descriptor that the process has inherited, by its number. Fails if it is not open.
pub(crate) fn duplicate_inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call has no pointers, and fails for a number that is not open.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Accepts a connection. The mode of its socket is set from its creation.
pub(crate) fn accept(listener: BorrowedFd<'_>, blocking: bool) -> io::Result<TcpStream> {
    let mode = if blocking { 0 } else { libc::SOCK_NONBLOCK };
    // SAFETY: null pointers are allowed, as the peer's address is not requested; `listener` is open
    // as it is borrowed.
    let accepted = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            mode | libc::SOCK_CLOEXEC,
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
