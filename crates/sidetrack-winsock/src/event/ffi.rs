//! The entries.
#![allow(non_snake_case)] // the header's own names

use crate::abi::{
    BOOL, DWORD, FALSE, HANDLE, TRUE, WSA_MAXIMUM_WAIT_EVENTS, WSA_WAIT_FAILED,
    WSA_WAIT_IO_COMPLETION, WSAEVENT,
};
use crate::call;
use crate::error::{Fault, Reply, WSA_INVALID_PARAMETER, WSAEFAULT};
use crate::memory;

/// A new event, not set. NULL on failure.
#[unsafe(no_mangle)]
pub extern "C" fn WSACreateEvent() -> WSAEVENT {
    call::value(std::ptr::null_mut(), super::create)
}

/// Sets an event. FALSE on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetEvent(hEvent: WSAEVENT) -> BOOL {
    truth(|| super::set(hEvent))
}

/// Resets an event. FALSE on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSAResetEvent(hEvent: WSAEVENT) -> BOOL {
    truth(|| super::reset(hEvent))
}

/// Closes an event; whatever completes later leaves it alone. FALSE on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSACloseEvent(hEvent: WSAEVENT) -> BOOL {
    truth(|| super::close(hEvent))
}

fn truth(work: impl FnOnce() -> Reply<()>) -> BOOL {
    call::value(FALSE, || work().map(|()| TRUE))
}

/// Waits until one of the events is set, or all; if alertable, runs this thread's completion routines and returns
/// WSA_WAIT_IO_COMPLETION after that. Errors: WSA_INVALID_HANDLE, WSA_INVALID_PARAMETER (none, or over 64),
/// WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WSAWaitForMultipleEvents(
    cEvents: DWORD,
    lphEvents: *const WSAEVENT,
    fWaitAll: BOOL,
    dwTimeout: DWORD,
    fAlertable: BOOL,
) -> DWORD {
    call::value(WSA_WAIT_FAILED, || {
        if !(1..=WSA_MAXIMUM_WAIT_EVENTS).contains(&cEvents) {
            return Err(Fault(WSA_INVALID_PARAMETER));
        }
        let events: Option<Vec<HANDLE>> = (0..cEvents as usize)
            .map(|index| memory::load(lphEvents.wrapping_add(index)))
            .collect();
        let events = events.ok_or(Fault(WSAEFAULT))?;
        super::wait::wait(&events, fWaitAll != FALSE, dwTimeout, fAlertable != FALSE)
    })
}

/// Sleeps; if alertable, until a completion routine of this thread's has run: then WSA_WAIT_IO_COMPLETION.
#[unsafe(no_mangle)]
pub extern "C" fn SleepEx(dwMilliseconds: DWORD, bAlertable: BOOL) -> DWORD {
    let slept = call::guard_always(|| super::sleep(dwMilliseconds, bAlertable != FALSE));
    match slept {
        Ok(true) => WSA_WAIT_IO_COMPLETION,
        _ => 0,
    }
}
