//! System calls on the caller's descriptors, which may be anything. They access the caller's memory
//! only through the kernel, which refuses invalid addresses.

use std::io;
use std::mem;
use std::ptr;

use sidetrack_abi::kernel::SOL_SIDETRACK;

const TCP_SYN_SENT: u8 = 2;

/// The value that a system call returned, or errno if it is negative.
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

/// Gets one of Sidetrack's options; the kernel writes it at `address`. Returns its length, or
/// errno.
pub(crate) fn get_option(
    socket: i32,
    name: i32,
    address: usize,
    capacity: usize,
) -> Result<usize, i32> {
    let mut length = capacity as libc::socklen_t;
    // SAFETY: the kernel writes at `address` within `capacity` bytes, which the caller of the C
    // function provided for that, and refuses an address that is not mapped; `length` is a local
    // variable.
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
    // SAFETY: `value` has `length` bytes, and all types used here are integers, or structures of
    // them.
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

/// Sets a socket option. Fails with errno.
pub(crate) fn set_value(socket: i32, level: i32, name: i32, value: &[u8]) -> Result<(), i32> {
    set_value_at(
        socket,
        level,
        name,
        value.as_ptr().expose_provenance(),
        value.len(),
    )
}

/// Sets a socket option to a value in the caller's memory, which only the kernel reads. Fails with
/// errno.
pub(crate) fn set_value_at(
    socket: i32,
    level: i32,
    name: i32,
    address: usize,
    length: usize,
) -> Result<(), i32> {
    let value = ptr::with_exposed_provenance(address);
    let length = length as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes there, and refuses an address that is not mapped.
    result(unsafe { libc::setsockopt(socket, level, name, value, length) }).map(|_| ())
}

/// Sets SO_RCVTIMEO or SO_SNDTIMEO.
pub(super) fn set_timeout(socket: i32, option: i32, milliseconds: u32) -> Result<(), i32> {
    let seconds = i64::from(milliseconds / 1000).to_ne_bytes();
    let micros = i64::from(milliseconds % 1000 * 1000).to_ne_bytes();
    let value = [seconds, micros].concat(); // a timeval
    set_value(socket, libc::SOL_SOCKET, option, &value)
}

pub(crate) fn is_socket(socket: i32) -> bool {
    get_value(socket, libc::SOL_SOCKET, libc::SO_TYPE, 0_i32).is_ok()
}

fn socket_type(socket: i32) -> i32 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_TYPE, 0_i32).unwrap_or(0)
}

/// The protocol, for example IPPROTO_TCP; 0 if the descriptor is not a socket.
pub(crate) fn protocol(socket: i32) -> i32 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, 0_i32).unwrap_or(0)
}

/// Whether the family of the socket is AF_INET.
pub(crate) fn is_ipv4(socket: i32) -> bool {
    get_value(socket, libc::SOL_SOCKET, libc::SO_DOMAIN, 0_i32) == Ok(libc::AF_INET)
}

/// The cookie of a socket: a number that the kernel never gives to another socket. 0 if it is not a
/// socket.
pub(crate) fn cookie(socket: i32) -> u64 {
    get_value(socket, libc::SOL_SOCKET, libc::SO_COOKIE, 0_u64).unwrap_or(0)
}

/// Whether this is a datagram socket without a datagram to receive.
pub(crate) fn has_no_datagram_yet(socket: i32) -> bool {
    socket_type(socket) == libc::SOCK_DGRAM && poll(socket, libc::POLLIN, 0) == Ok(false)
}

/// Whether this is a TCP socket whose connect is in progress.
pub(crate) fn is_connecting(socket: i32) -> bool {
    // SAFETY: the structure has only integers, for which zeros are valid.
    let nothing: libc::tcp_info = unsafe { mem::zeroed() };
    get_value(socket, libc::IPPROTO_TCP, libc::TCP_INFO, nothing)
        .is_ok_and(|info| info.tcpi_state == TCP_SYN_SENT)
}

pub(crate) fn is_nonblocking(socket: i32) -> bool {
    // SAFETY: the call takes no pointers.
    let flags = unsafe { libc::fcntl(socket, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Waits for one of the events, an error or a hang-up, for at most `timeout` milliseconds; -1 waits
/// without a limit. Returns whether there is one. Fails with errno.
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
