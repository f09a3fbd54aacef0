//! The entries: what a service provider is given by Winsock (spec 5.5).
#![allow(non_snake_case)] // the header's own names

use super::{Apc, own_queue, queue_of};
use crate::abi::{DWORD_PTR, INT, LPWSAUSERAPC, SOCKET_ERROR, WSATHREADID};
use crate::call;
use crate::error::{Fault, Reply, WSAEFAULT};
use crate::memory::{self, Place};

/// Fills in the calling thread's id. 0, or SOCKET_ERROR with the error at lpErrno: WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WPUOpenCurrentThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    told_at(lpErrno, || {
        let id = Place::at(lpThreadId).ok_or(Fault(WSAEFAULT))?;
        id.store(WSATHREADID {
            ThreadHandle: own_queue()?.handle(),
            Reserved: 0,
        });
        Ok(())
    })
}

/// Gives the id back. Nothing to do here; a thread's id is good until it ends.
#[unsafe(no_mangle)]
pub extern "C" fn WPUCloseThread(lpThreadId: *mut WSATHREADID, lpErrno: *mut INT) -> INT {
    told_at(lpErrno, || {
        let id = memory::load(lpThreadId).ok_or(Fault(WSAEFAULT))?;
        queue_of(id.ThreadHandle).map(drop)
    })
}

/// Queues a call to a thread; it runs when that is in an alertable wait. 0, or SOCKET_ERROR with the error at
/// lpErrno: WSAEFAULT for a bad thread id, WSAENOBUFS beyond 65,536.
#[unsafe(no_mangle)]
pub extern "C" fn WPUQueueApc(
    lpThreadId: *mut WSATHREADID,
    lpfnUserApc: LPWSAUSERAPC,
    dwContext: DWORD_PTR,
    lpErrno: *mut INT,
) -> INT {
    told_at(lpErrno, || {
        let id = memory::load(lpThreadId).ok_or(Fault(WSAEFAULT))?;
        let function = lpfnUserApc.ok_or(Fault(WSAEFAULT))?;
        let queue = queue_of(id.ThreadHandle)?;
        queue.has_room()?;
        queue.push(Apc::User {
            function,
            context: dwContext,
        });
        Ok(())
    })
}

/// As providers tell errors: at a place, not by the thread's last error.
pub(crate) fn told_at(errno: *mut INT, work: impl FnOnce() -> Reply<()>) -> INT {
    let place = Place::at(errno);
    match call::guard(work) {
        Ok(()) => 0,
        Err(Fault(error)) => {
            if let Some(place) = place {
                place.store(error);
            }
            SOCKET_ERROR
        }
    }
}
