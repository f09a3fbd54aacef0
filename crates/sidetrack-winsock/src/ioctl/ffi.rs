//! The C functions for control codes.
#![allow(non_snake_case)] // the names are those of the Windows headers

use std::ffi::c_void;

use super::IoctlCall;
use crate::abi::{
    DWORD, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SOCKET, SOCKET_ERROR, WSAOVERLAPPED,
    WSATHREADID,
};
use crate::error::{WSAEFAULT, WinsockError};
use crate::memory::{self, MemoryRange};
use crate::{call, thread};

/// Executes a control code on a socket. Returns 0, or SOCKET_ERROR with the error in
/// WSAGetLastError. The error WSA_IO_PENDING means that an overlapped operation has started.
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
    let control = IoctlCall {
        socket: s,
        code: dwIoControlCode,
        input: range(lpvInBuffer, cbInBuffer),
        output: range(lpvOutBuffer, cbOutBuffer),
        returned: lpcbBytesReturned,
        overlapped: lpOverlapped,
        routine: lpCompletionRoutine,
        thread: None,
    };
    call::value_or_last_error(SOCKET_ERROR, call::guard(|| control.run().map(|()| 0)))
}

/// As WSAIoctl, for service providers: the error is stored at lpErrno, and a completion routine
/// runs on the thread of lpThreadId. The thread id is copied.
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
    call::with_errno_at(lpErrno, || {
        let thread = match lpOverlapped.is_null() || lpThreadId.is_null() {
            true => None,
            false => {
                let id = memory::read(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
                Some(thread::queue_of(id.ThreadHandle)?)
            }
        };
        let control = IoctlCall {
            socket: s,
            code: dwIoControlCode,
            input: range(lpvInBuffer, cbInBuffer),
            output: range(lpvOutBuffer, cbOutBuffer),
            returned: lpcbBytesReturned,
            overlapped: lpOverlapped,
            routine: lpCompletionRoutine,
            thread,
        };
        control.run()
    })
}

/// A buffer of the caller. Its provenance is exposed, as the kernel or the library will access it
/// by its address.
fn range(pointer: *mut c_void, length: DWORD) -> MemoryRange {
    MemoryRange {
        address: pointer.expose_provenance(),
        length: length as usize,
    }
}
