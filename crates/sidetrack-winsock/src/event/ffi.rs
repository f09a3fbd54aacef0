//! The C functions for events and alertable waits.
#![allow(non_snake_case)] // the names are those of the Windows headers

use super::wait;
use crate::abi::{
    BOOL, DWORD, FALSE, HANDLE, TRUE, WSA_MAXIMUM_WAIT_EVENTS, WSA_WAIT_FAILED,
    WSA_WAIT_IO_COMPLETION, WSAEVENT,
};
use crate::call;
use crate::error::{WSA_INVALID_PARAMETER, WSAEFAULT, WinsockError, WinsockResult};
use crate::memory;

/// Creates an event that is not set. Returns NULL on failure.
#[unsafe(no_mangle)]
pub extern "C" fn WSACreateEvent() -> WSAEVENT {
    call::value(std::ptr::null_mut(), super::create)
}

/// Sets an event. Returns FALSE on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetEvent(hEvent: WSAEVENT) -> BOOL {
    bool_result(|| super::set(hEvent))
}

/// Resets an event. Returns FALSE on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSAResetEvent(hEvent: WSAEVENT) -> BOOL {
    bool_result(|| super::reset(hEvent))
}

/// Closes an event. A pending operation that has the event does not set it any more. Returns FALSE
/// on failure: WSA_INVALID_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn WSACloseEvent(hEvent: WSAEVENT) -> BOOL {
    bool_result(|| super::close(hEvent))
}

fn bool_result(work: impl FnOnce() -> WinsockResult<()>) -> BOOL {
    call::value(FALSE, || work().map(|()| TRUE))
}

/// Waits until one of the events is set, or, with fWaitAll, until all are set. An alertable wait
/// also ends, with WSA_WAIT_IO_COMPLETION, after it has run completion routines of this thread.
/// Errors: WSA_INVALID_HANDLE, WSA_INVALID_PARAMETER (no event, or more than 64), WSAEFAULT.
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
            return Err(WinsockError(WSA_INVALID_PARAMETER));
        }
        let events: Option<Vec<HANDLE>> = (0..cEvents as usize)
            .map(|index| memory::read(lphEvents.wrapping_add(index)))
            .collect();
        let events = events.ok_or(WinsockError(WSAEFAULT))?;
        wait::wait(&events, fWaitAll != FALSE, dwTimeout, fAlertable != FALSE)
    })
}

/// Sleeps for a number of milliseconds, and returns 0. An alertable sleep also ends, with
/// WSA_WAIT_IO_COMPLETION, after it has run completion routines of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn SleepEx(dwMilliseconds: DWORD, bAlertable: BOOL) -> DWORD {
    let slept = call::guard_always(|| wait::sleep(dwMilliseconds, bAlertable != FALSE));
    match slept {
        Ok(true) => WSA_WAIT_IO_COMPLETION,
        _ => 0,
    }
}
