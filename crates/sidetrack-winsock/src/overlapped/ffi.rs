//! The entries.
#![allow(non_snake_case)] // the header's own names

use std::sync::atomic::Ordering;

use super::{MISUSES, lock, result};
use crate::abi::{BOOL, DWORD, FALSE, SOCKET, TRUE, WSAOVERLAPPED};
use crate::error::{Fault, WSA_INVALID_PARAMETER, WSAEFAULT};
use crate::memory::Place;
use crate::{call, socket};

/// How an overlapped operation ended. FALSE with the operation's error, WSA_IO_INCOMPLETE (still pending, and fWait is
/// FALSE), WSAEFAULT, WSA_INVALID_PARAMETER (fWait, with a completion routine). On failure the count is left alone.
#[unsafe(no_mangle)]
pub extern "C" fn WSAGetOverlappedResult(
    s: SOCKET,
    lpOverlapped: *mut WSAOVERLAPPED,
    lpcbTransfer: *mut DWORD,
    fWait: BOOL,
    lpdwFlags: *mut DWORD,
) -> BOOL {
    call::value(FALSE, || {
        socket::descriptor(s)?;
        let fault = Fault(WSAEFAULT);
        let overlapped = Place::at(lpOverlapped).ok_or(fault)?;
        let count = Place::at(lpcbTransfer).ok_or(fault)?;
        let flags = Place::at(lpdwFlags).ok_or(fault)?;
        count.store(result(overlapped, fWait != FALSE)?);
        flags.store(0);
        Ok(TRUE)
    })
}

/// Aborts one operation, or, if lpOverlapped is NULL, all of the socket's. FALSE with WSA_INVALID_PARAMETER if there is
/// none. It is a request: wait for the completion before freeing anything.
#[unsafe(no_mangle)]
pub extern "C" fn CancelIoEx(hFile: SOCKET, lpOverlapped: *mut WSAOVERLAPPED) -> BOOL {
    call::value(FALSE, || {
        let socket = socket::descriptor(hFile)?;
        let aborted = match lpOverlapped.is_null() {
            true => super::abort_socket(socket),
            false => {
                let chosen = lpOverlapped.addr();
                let mut guard = lock();
                let pending = guard.get_or_insert_default();
                let known = pending.by_socket.contains(&(socket, chosen));
                if known {
                    pending.abort_one(chosen);
                }
                usize::from(known)
            }
        };
        match aborted {
            0 => Err(Fault(WSA_INVALID_PARAMETER)),
            _ => Ok(TRUE),
        }
    })
}

/// Not of Windows: completions so far that found their OVERLAPPED, or their event, gone: a program's mistake.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackMisuses() -> DWORD {
    MISUSES.load(Ordering::Relaxed)
}
