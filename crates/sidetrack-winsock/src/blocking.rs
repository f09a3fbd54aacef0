//! Calls that wait, and the blocking hook of Winsock 1.1, which runs while they wait.
//!
//! Only a synchronous query waits, for an answer that does not exist yet. Any other call within the
//! hook fails with WSAEINPROGRESS. The waiting call fails with WSAEINTR if the hook calls
//! WSACancelBlockingCall, or if a signal handler has run.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::cell::Cell;

use crate::abi::SIDETRACK_BLOCKING_HOOK;
use crate::attempt::Interest;
use crate::error::{WSAEINTR, WinsockError, WinsockResult};
use crate::socket;

/// Time between two calls of the hook, in milliseconds.
const HOOK_INTERVAL: i32 = 5;

thread_local! {
    static HOOK: Cell<SIDETRACK_BLOCKING_HOOK> = const { Cell::new(None) };
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
    static CANCELLED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is running its blocking hook.
pub(crate) fn is_in_hook() -> bool {
    IN_HOOK.try_with(Cell::get).unwrap_or(false)
}

/// Waits until the socket may have an answer. Error: WSAEINTR.
pub(crate) fn wait(socket: i32, interest: Interest) -> WinsockResult<()> {
    let timeout = match HOOK.get() {
        Some(_) => HOOK_INTERVAL,
        None => -1,
    };
    while !socket::poll(socket, interest.events(), timeout).map_err(WinsockError::from_errno)? {
        if run_hook() {
            return Err(WinsockError(WSAEINTR));
        }
    }
    Ok(())
}

/// Calls the hook, if there is one. Returns whether the hook has cancelled the waiting call.
fn run_hook() -> bool {
    let Some(hook) = HOOK.get() else { return false };
    CANCELLED.set(false);
    IN_HOOK.set(true);
    hook();
    IN_HOOK.set(false);
    CANCELLED.take()
}
