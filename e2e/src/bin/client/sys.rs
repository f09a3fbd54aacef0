//! System calls for which socket2 has no function.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{SockAddr, Socket};

fn checked(result: isize) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls connect with AF_UNSPEC, which disconnects the socket.
pub(crate) fn disconnect(socket: &Socket) -> io::Result<()> {
    let none = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `none` is a whole sockaddr of the length given.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const none, length) };
    checked(result as isize)
}

/// Calls sendto with MSG_FASTOPEN, which connects the socket and sends the bytes with the SYN.
pub(crate) fn send_fastopen(socket: &Socket, bytes: &[u8], to: &SockAddr) -> io::Result<()> {
    // SAFETY: `bytes` and `to` are readable for their lengths during the call.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_FASTOPEN,
            to.as_ptr().cast(),
            to.len(),
        )
    };
    checked(result)
}

/// Sets TCP_FASTOPEN_CONNECT: connect returns at once, and the first write connects.
pub(crate) fn set_fastopen_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is an int, which the option needs, of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    checked(result as isize)
}
