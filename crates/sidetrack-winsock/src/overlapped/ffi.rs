//! The C functions for overlapped operations.
#![allow(non_snake_case)] // the names are those of the Windows headers

use std::sync::atomic::Ordering;

use super::{MISUSES, lock, result};
use crate::abi::{BOOL, DWORD, FALSE, SOCKET, TRUE, WSAOVERLAPPED};
use crate::error::{WSA_INVALID_PARAMETER, WSAEFAULT, WinsockError};
use crate::memory::CallerPointer;
use crate::{call, socket};

/// Gets the result of an overlapped operation. Returns TRUE, or FALSE with the operation's error;
/// WSA_IO_INCOMPLETE if it is pending and fWait is FALSE; WSA_INVALID_PARAMETER if fWait is TRUE
/// and it has a completion routine; or WSAEFAULT. On failure the number of bytes is not written.
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
        let error = WinsockError(WSAEFAULT);
        let overlapped = CallerPointer::new(lpOverlapped).ok_or(error)?;
        let count = CallerPointer::new(lpcbTransfer).ok_or(error)?;
        let flags = CallerPointer::new(lpdwFlags).ok_or(error)?;
        count.store(result(overlapped, fWait != FALSE)?);
        flags.store(0);
        Ok(TRUE)
    })
}

/// Aborts one pending operation of a socket, or all of them if lpOverlapped is NULL. Returns FALSE
/// with WSA_INVALID_PARAMETER if there is none. Wait for the completion before freeing the
/// OVERLAPPED or the buffers.
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
            0 => Err(WinsockError(WSA_INVALID_PARAMETER)),
            _ => Ok(TRUE),
        }
    })
}

/// Not part of Windows: returns the number of completions so far for which the OVERLAPPED or the
/// event no longer existed. Each is a mistake of the program.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackMisuses() -> DWORD {
    MISUSES.load(Ordering::Relaxed)
}
