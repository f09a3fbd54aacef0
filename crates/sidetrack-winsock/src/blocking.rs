//! Calls that wait, and the hook that runs meanwhile (Winsock 1.1's blocking hook).
//!
//! Only a synchronous query waits here: for an answer that does not exist yet. Within the hook every other
//! call is WSAEINPROGRESS; WSACancelBlockingCall makes the waiting one WSAEINTR, and so does a signal's handler.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::cell::Cell;

use crate::abi::SIDETRACK_BLOCKING_HOOK;
use crate::error::{Fault, Reply, WSAEINTR};
use crate::question::Interest;
use crate::socket;

/// Milliseconds between two calls of the hook.
const HOOK_INTERVAL: i32 = 5;

thread_local! {
    static HOOK: Cell<SIDETRACK_BLOCKING_HOOK> = const { Cell::new(None) };
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
    static CANCELLED: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn is_in_hook() -> bool {
    IN_HOOK.try_with(Cell::get).unwrap_or(false)
}

/// Waits until the socket may have an answer.
pub(crate) fn wait(socket: i32, interest: Interest) -> Reply<()> {
    let timeout = match HOOK.get() {
        Some(_) => HOOK_INTERVAL,
        None => -1,
    };
    while !socket::poll(socket, interest.events(), timeout).map_err(Fault::of_errno)? {
        if run_hook() {
            return Err(Fault(WSAEINTR));
        }
    }
    Ok(())
}

/// Returns whether it has cancelled the call.
fn run_hook() -> bool {
    let Some(hook) = HOOK.get() else { return false };
    CANCELLED.set(false);
    IN_HOOK.set(true);
    hook();
    IN_HOOK.set(false);
    CANCELLED.take()
}
