//! The C functions for service providers (docs/wfp.md, 5.5).
#![allow(non_snake_case)] // the names are those of the Windows headers

use super::Apc;
use crate::abi::{DWORD_PTR, INT, LPWSAUSERAPC, WSATHREADID};
use crate::error::{WSAEFAULT, WinsockError};
use crate::memory::{self, CallerPointer};
use crate::{call, thread};

/// Fills in the id of the calling thread. Returns 0, or SOCKET_ERROR with the error at lpErrno:
/// WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WPUOpenCurrentThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    call::with_errno_at(lpErrno, || {
        let id = CallerPointer::new(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        id.store(WSATHREADID {
            ThreadHandle: thread::own_handle()?,
            Reserved: 0,
        });
        Ok(())
    })
}

/// Gives a thread id back. It stays valid until its thread ends. Returns 0, or SOCKET_ERROR with
/// the error at lpErrno: WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WPUCloseThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    call::with_errno_at(lpErrno, || {
        let id = memory::read(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        thread::queue_of(id.ThreadHandle).map(drop)
    })
}

/// Queues a function to a thread. It runs when that thread is in an alertable wait. Returns 0, or
/// SOCKET_ERROR with the error at lpErrno: WSAEFAULT for an invalid thread id, WSAENOBUFS if 65,536
/// functions are queued.
#[unsafe(no_mangle)]
pub extern "C" fn WPUQueueApc(
    lpThreadId: *mut WSATHREADID,
    lpfnUserApc: LPWSAUSERAPC,
    dwContext: DWORD_PTR,
    lpErrno: *mut INT,
) -> INT {
    call::with_errno_at(lpErrno, || {
        let id = memory::read(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        let function = lpfnUserApc.ok_or(WinsockError(WSAEFAULT))?;
        let queue = thread::queue_of(id.ThreadHandle)?;
        queue.has_room()?;
        queue.push(Apc::User {
            function,
            context: dwContext,
        });
        Ok(())
    })
}
