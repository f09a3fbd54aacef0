//! The C functions for service providers (docs/wfp.md, 5.5).
#![allow(non_snake_case)] // the names are those of the Windows headers

use super::{Apc, own_queue, queue_of};
use crate::abi::{DWORD_PTR, INT, LPWSAUSERAPC, SOCKET_ERROR, WSATHREADID};
use crate::call;
use crate::error::{WSAEFAULT, WinsockError, WinsockResult};
use crate::memory::{self, CallerPointer};

/// Fills in the id of the calling thread. Returns 0, or SOCKET_ERROR with the error at lpErrno:
/// WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WPUOpenCurrentThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    with_errno_at(lpErrno, || {
        let id = CallerPointer::new(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        id.store(WSATHREADID {
            ThreadHandle: own_queue()?.handle(),
            Reserved: 0,
        });
        Ok(())
    })
}

/// Gives a thread id back. It stays valid until its thread ends. Returns 0, or SOCKET_ERROR with
/// the error at lpErrno: WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WPUCloseThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    with_errno_at(lpErrno, || {
        let id = memory::read(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        queue_of(id.ThreadHandle).map(drop)
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
    with_errno_at(lpErrno, || {
        let id = memory::read(lpThreadId).ok_or(WinsockError(WSAEFAULT))?;
        let function = lpfnUserApc.ok_or(WinsockError(WSAEFAULT))?;
        let queue = queue_of(id.ThreadHandle)?;
        queue.has_room()?;
        queue.push(Apc::User {
            function,
            context: dwContext,
        });
        Ok(())
    })
}

/// Runs a function that reports its error as service providers do: at a pointer, not as the
/// thread's last error.
pub(crate) fn with_errno_at(errno: *mut INT, work: impl FnOnce() -> WinsockResult<()>) -> INT {
    let pointer = CallerPointer::new(errno);
    match call::guard(work) {
        Ok(()) => 0,
        Err(WinsockError(error)) => {
            if let Some(pointer) = pointer {
                pointer.store(error);
            }
            SOCKET_ERROR
        }
    }
}
