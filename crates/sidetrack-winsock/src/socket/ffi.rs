//! The C functions for sockets, under Winsock's conventions. In C they have their usual names,
//! which macros of the header map to these: the functions of libc must stay reachable for other
//! code in the process.
#![allow(non_snake_case)] // the names are those of the Windows headers

use std::ffi::{c_char, c_void};

use super::sys::{self, result};
use super::{checked, descriptor, forget, inherit, mark, remember};
use crate::abi::{
    DWORD, INT, SOCKET, SOCKET_ERROR, WSA_FLAG_NO_HANDLE_INHERIT, WSA_FLAG_OVERLAPPED,
};
use crate::error::{WSAEFAULT, WSAEINVAL, WSAEOPNOTSUPP, WinsockError, WinsockResult};
use crate::memory::{self, CallerPointer, MemoryRange};
use crate::{call, message, overlapped};

const INVALID_SOCKET: SOCKET = SOCKET::MAX;
/// Command of ioctlsocket: makes the socket non-blocking or blocking.
const FIONBIO: u32 = 0x8004_667e;
/// Command of ioctlsocket: gets the number of bytes that can be read.
const FIONREAD: u32 = 0x4004_667f;

/// Creates a socket with the overlapped attribute.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_socket(af: INT, kind: INT, protocol: INT) -> SOCKET {
    call::value(INVALID_SOCKET, || {
        make(af, kind, protocol, WSA_FLAG_OVERLAPPED)
    })
}

/// Creates a socket. It has the overlapped attribute only with WSA_FLAG_OVERLAPPED. Flags without a
/// meaning on Linux are ignored; lpProtocolInfo must be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn WSASocketW(
    af: INT,
    kind: INT,
    protocol: INT,
    lpProtocolInfo: *mut c_void,
    g: DWORD,
    dwFlags: DWORD,
) -> SOCKET {
    call::value(INVALID_SOCKET, || {
        match lpProtocolInfo.is_null() && g == 0 {
            true => make(af, kind, protocol, dwFlags),
            false => Err(WinsockError(WSAEINVAL)),
        }
    })
}

/// As WSASocketW.
#[unsafe(no_mangle)]
pub extern "C" fn WSASocketA(
    af: INT,
    kind: INT,
    protocol: INT,
    lpProtocolInfo: *mut c_void,
    g: DWORD,
    dwFlags: DWORD,
) -> SOCKET {
    WSASocketW(af, kind, protocol, lpProtocolInfo, g, dwFlags)
}

fn make(family: INT, kind: INT, protocol: INT, flags: DWORD) -> WinsockResult<SOCKET> {
    let close_on_exec = match flags & WSA_FLAG_NO_HANDLE_INHERIT {
        0 => 0,
        _ => libc::SOCK_CLOEXEC,
    };
    // SAFETY: the call takes no pointers.
    let socket = unsafe { libc::socket(family, kind | close_on_exec, protocol) };
    let socket = result(socket).map_err(WinsockError::from_errno)?;
    if flags & WSA_FLAG_OVERLAPPED == 0 {
        remember(socket, |entry| entry.synchronous = true);
    }
    Ok(socket as SOCKET)
}

/// Binds the socket to an address.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_bind(s: SOCKET, name: *const c_void, namelen: INT) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        // SAFETY: the kernel reads `namelen` bytes at `name`, or refuses.
        outcome(unsafe { libc::bind(socket, name.cast(), namelen as u32) })?;
        message::mark_if_redirect_option_is_set(socket)
    })
}

/// Listens. If the process has the credentials of a service, its first listener of each family
/// becomes the service's.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_listen(s: SOCKET, backlog: INT) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        // SAFETY: the call takes no pointers.
        outcome(unsafe { libc::listen(socket, backlog) })?;
        match mark(socket) {
            // Another listener is the service's, or the socket is not a TCP socket.
            Ok(()) | Err(libc::EADDRINUSE | libc::EPROTONOSUPPORT) => Ok(()),
            Err(errno) => Err(WinsockError::from_mark_errno(errno)),
        }
    })
}

/// Accepts a connection. The new socket has the attributes of the listener, and blocks if the
/// listener does.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_accept(s: SOCKET, addr: *mut c_void, addrlen: *mut INT) -> SOCKET {
    call::value(INVALID_SOCKET, || {
        let listener = checked(s)?;
        let flags = match sys::is_nonblocking(listener) {
            true => libc::SOCK_NONBLOCK,
            false => 0,
        };
        // SAFETY: the kernel writes the address, or refuses.
        let accepted = unsafe { libc::accept4(listener, addr.cast(), addrlen.cast(), flags) };
        let accepted = result(accepted).map_err(WinsockError::from_errno)?;
        inherit(listener, accepted);
        Ok(accepted as SOCKET)
    })
}

/// Connects the socket.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_connect(s: SOCKET, name: *const c_void, namelen: INT) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        // SAFETY: the kernel reads `namelen` bytes at `name`, or refuses.
        outcome(unsafe { libc::connect(socket, name.cast(), namelen as u32) })
    })
}

/// Aborts the pending operations of the socket, and closes it.
#[unsafe(no_mangle)]
pub extern "C" fn closesocket(s: SOCKET) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        forget(socket);
        overlapped::close(socket, || sys::close(socket)).map_err(WinsockError::from_errno)
    })
}

/// Ends sending, receiving, or both.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_shutdown(s: SOCKET, how: INT) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        // SAFETY: the call takes no pointers.
        outcome(unsafe { libc::shutdown(socket, how) })
    })
}

/// Receives bytes.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_recv(s: SOCKET, buf: *mut c_char, len: INT, flags: INT) -> INT {
    call::value(SOCKET_ERROR, || {
        let (socket, length) = (descriptor(s)?, length(len)?);
        // SAFETY: the kernel writes `length` bytes at `buf`, or refuses.
        count(unsafe { libc::recv(socket, buf.cast(), length, flags) })
    })
}

/// Sends bytes. If the peer has closed the connection, the error is WSAESHUTDOWN; there is no
/// signal.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_send(s: SOCKET, buf: *const c_char, len: INT, flags: INT) -> INT {
    call::value(SOCKET_ERROR, || {
        let (socket, length) = (descriptor(s)?, length(len)?);
        // SAFETY: the kernel reads `length` bytes at `buf`, or refuses.
        count(unsafe { libc::send(socket, buf.cast(), length, flags | libc::MSG_NOSIGNAL) })
    })
}

/// Sets a socket option: an option of Linux, or IP_WFP_REDIRECT_RECORDS or IP_WFP_REDIRECT_CONTEXT.
/// SO_RCVTIMEO and SO_SNDTIMEO may be given as a DWORD of milliseconds.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_setsockopt(
    s: SOCKET,
    level: INT,
    optname: INT,
    optval: *const c_char,
    optlen: INT,
) -> INT {
    call::status(|| {
        let (socket, length) = (checked(s)?, length(optlen)?);
        match message::RedirectOption::of(level, optname) {
            Some(wanted) => {
                let value = MemoryRange::of(optval, length);
                message::set_redirect_option(socket, wanted, value)
            }
            None if is_timeout(level, optname) && length == size_of::<DWORD>() => {
                let milliseconds =
                    memory::read(optval.cast::<DWORD>()).ok_or(WinsockError(WSAEFAULT))?;
                sys::set_timeout(socket, optname, milliseconds).map_err(WinsockError::from_errno)
            }
            None => sys::set_value_at(socket, level, optname, optval.expose_provenance(), length)
                .map_err(WinsockError::from_errno),
        }
    })
}

fn is_timeout(level: INT, option: INT) -> bool {
    level == libc::SOL_SOCKET && matches!(option, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO)
}

/// Executes FIONBIO or FIONREAD.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_ioctlsocket(s: SOCKET, cmd: DWORD, argp: *mut u32) -> INT {
    call::status(|| {
        let socket = checked(s)?;
        let argument = CallerPointer::new(argp).ok_or(WinsockError(WSAEFAULT))?;
        let mut value = argument.load() as libc::c_int;
        let request = match cmd {
            FIONBIO => libc::FIONBIO,
            FIONREAD => libc::FIONREAD,
            _ => return Err(WinsockError(WSAEOPNOTSUPP)),
        };
        // SAFETY: both requests take a pointer to an int, and `value` is one.
        outcome(unsafe { libc::ioctl(socket, request, &raw mut value) })?;
        if cmd == FIONREAD {
            argument.store(value as u32);
        }
        Ok(())
    })
}

fn length(given: INT) -> WinsockResult<usize> {
    usize::try_from(given).map_err(|_| WinsockError(WSAEFAULT))
}

fn outcome(returned: i32) -> WinsockResult<()> {
    result(returned)
        .map(|_| ())
        .map_err(WinsockError::from_errno)
}

fn count(returned: isize) -> WinsockResult<INT> {
    match returned {
        0.. => Ok(returned as INT),
        _ => Err(WinsockError::from_errno(sys::errno())),
    }
}
