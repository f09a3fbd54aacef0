//! The entries.
#![allow(non_snake_case)] // the header's own names

use std::ffi::c_void;

use super::Control;
use crate::abi::{
    DWORD, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SOCKET, SOCKET_ERROR, WSAOVERLAPPED,
    WSATHREADID,
};
use crate::error::{Fault, WSAEFAULT};
use crate::memory::{self, Span};
use crate::{apc, call};

/// Controls a socket. 0, or SOCKET_ERROR; see WSAGetLastError, where WSA_IO_PENDING means that it has begun.
#[unsafe(no_mangle)]
pub extern "C" fn WSAIoctl(
    s: SOCKET,
    dwIoControlCode: DWORD,
    lpvInBuffer: *mut c_void,
    cbInBuffer: DWORD,
    lpvOutBuffer: *mut c_void,
    cbOutBuffer: DWORD,
    lpcbBytesReturned: *mut DWORD,
    lpOverlapped: *mut WSAOVERLAPPED,
    lpCompletionRoutine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
) -> INT {
    let control = Control {
        socket: s,
        code: dwIoControlCode,
        input: span(lpvInBuffer, cbInBuffer),
        output: span(lpvOutBuffer, cbOutBuffer),
        returned: lpcbBytesReturned,
        overlapped: lpOverlapped,
        routine: lpCompletionRoutine,
        thread: None,
    };
    call::told(SOCKET_ERROR, call::guard(|| control.run().map(|()| 0)))
}

/// The same as a service provider has it: the error is at lpErrno, and a completion routine runs on the thread of
/// lpThreadId, which is copied.
#[unsafe(no_mangle)]
pub extern "C" fn WSPIoctl(
    s: SOCKET,
    dwIoControlCode: DWORD,
    lpvInBuffer: *mut c_void,
    cbInBuffer: DWORD,
    lpvOutBuffer: *mut c_void,
    cbOutBuffer: DWORD,
    lpcbBytesReturned: *mut DWORD,
    lpOverlapped: *mut WSAOVERLAPPED,
    lpCompletionRoutine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
    lpThreadId: *mut WSATHREADID,
    lpErrno: *mut INT,
) -> INT {
    apc::told_at(lpErrno, || {
        let thread = match lpOverlapped.is_null() || lpThreadId.is_null() {
            true => None,
            false => {
                let id = memory::load(lpThreadId).ok_or(Fault(WSAEFAULT))?;
                Some(apc::queue_of(id.ThreadHandle)?)
            }
        };
        let control = Control {
            socket: s,
            code: dwIoControlCode,
            input: span(lpvInBuffer, cbInBuffer),
            output: span(lpvOutBuffer, cbOutBuffer),
            returned: lpcbBytesReturned,
            overlapped: lpOverlapped,
            routine: lpCompletionRoutine,
            thread,
        };
        control.run()
    })
}

/// The kernel will write or read there.
fn span(pointer: *mut c_void, length: DWORD) -> Span {
    Span {
        address: pointer.expose_provenance(),
        length: length as usize,
    }
}
