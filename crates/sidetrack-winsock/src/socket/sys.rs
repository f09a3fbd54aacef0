//! System calls on descriptors of the caller's, which may be anything. None of them touches the caller's memory but
//! through the kernel, which refuses what is not good.

use std::io;
use std::mem;
use std::ptr;

use sidetrack_abi::kernel::SOL_SIDETRACK;

const TCP_SYN_SENT: u8 = 2;

/// 0 and more, or errno.
pub(super) fn result(returned: i32) -> Result<i32, i32> {
    match returned {
        0.. => Ok(returned),
        _ => Err(errno()),
    }
}

pub(super) fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// One of Sidetrack's own options, written by the kernel at `address`. Returns its length, or errno.
pub(crate) fn get_option(
    socket: i32,
    name: i32,
    address: usize,
    capacity: usize,
) -> Result<usize, i32> {
    let mut length = capacity as libc::socklen_t;
    // SAFETY: the kernel writes at `address` within `capacity` bytes, which the caller of the C function gave for
    // that, and refuses an address that is not mapped; `length` is ours.
    let returned = unsafe {
        libc::getsockopt(
            socket,
            SOL_SIDETRACK,
            name,
            ptr::with_exposed_provenance_mut(address),
            &raw mut length,
        )
    };
    result(returned).map(|_| length as usize)
}

fn get_value<T: Copy>(socket: i32, level: i32, name: i32, mut value: T) -> Result<T, i32> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has `length` bytes, and all types here are integers, or structures of them.
    let returned = unsafe {
        libc::getsockopt(
            socket,
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    result(returned).map(|_| value)
}

/// Sets an option.
pub(crate) fn set_value(socket: i32, level: i32, name: i32, value: &[u8]) -> Result<(), i32> {
    set_value_at(
        socket,
        level,
        name,
        value.as_ptr().expose_provenance(),
        value.len(),
    )
}

/// The same, with a value of the caller's, which only the kernel reads.
pub(crate) fn set_value_at(
    socket: i32,
    level: i32,
    name: i32,
    address: usize,
    length: usize,
) -> Result<(), i32> {
    let value = ptr::with_exposed_provenance(address);
    let length = length as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes there, and refuses what is not mapped.
    result(unsafe { libc::setsockopt(socket, level, name, value, length) }).map(|_| ())
}

/// SO_RCVTIMEO or SO_SNDTIMEO.
pub(super) fn set_timeout(socket: i32, option: i32, milliseconds: u32) -> Result<(), i32> {
    let seconds = i64::from(milliseconds / 1000).to_ne_bytes();
    let micros = i64::from(milliseconds % 1000 * 1000).to_ne_bytes();
    let value = [seconds, micros].concat(); // a timeval
    set_value(socket, libc::SOL_SOCKET, option, &value)
}

pub(crate) fn is_socket(socket: i32) -> bool {
    get_value(socket, libc::SOL_SOCKET, libc::SO_TYPE, 0_i32).is_ok()
}

fn kind(socket: i32) -> i32 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_TYPE, 0_i32).unwrap_or(0)
}

/// IPPROTO_TCP, IPPROTO_UDP; 0 if it is no socket.
pub(crate) fn protocol(socket: i32) -> i32 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, 0_i32).unwrap_or(0)
}

/// Whether its family is AF_INET.
pub(crate) fn local_is_v4(socket: i32) -> bool {
    get_value(socket, libc::SOL_SOCKET, libc::SO_DOMAIN, 0_i32) == Ok(libc::AF_INET)
}

/// A number that no other socket has, ever. 0 if it is no socket.
pub(crate) fn cookie(socket: i32) -> u64 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_COOKIE, 0_u64).unwrap_or(0)
}

/// Datagrams, and none has come.
pub(crate) fn awaits_datagram(socket: i32) -> bool {
    kind(socket) == libc::SOCK_DGRAM && poll(socket, libc::POLLIN, 0) == Ok(false)
}

/// A TCP socket whose connect is on its way.
pub(crate) fn is_connecting(socket: i32) -> bool {
    // SAFETY: the structure is integers only; zeros are valid.
    let nothing: libc::tcp_info = unsafe { mem::zeroed() };
    get_value(socket, libc::IPPROTO_TCP, libc::TCP_INFO, nothing)
        .is_ok_and(|info| info.tcpi_state == TCP_SYN_SENT)
}

pub(crate) fn is_nonblocking(socket: i32) -> bool {
    // SAFETY: the call takes no pointers.
    let flags = unsafe { libc::fcntl(socket, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Whether one of the events is there within so many milliseconds (-1: wait for ever), or an error or hang-up.
pub(crate) fn poll(descriptor: i32, events: i16, timeout: i32) -> Result<bool, i32> {
    let mut polled = libc::pollfd {
        fd: descriptor,
        events,
        revents: 0,
    };
    // SAFETY: `polled` is one valid entry.
    result(unsafe { libc::poll(&raw mut polled, 1, timeout) }).map(|ready| ready > 0)
}

pub(crate) fn close(socket: i32) -> Result<(), i32> {
    // SAFETY: the call takes no pointers; the descriptor is the caller's to close.
    result(unsafe { libc::close(socket) }).map(|_| ())
}
