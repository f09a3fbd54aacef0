//! The C functions for the blocking hook.
#![allow(non_snake_case)] // the names are those of the Windows headers

use super::{CANCELLED, HOOK, is_in_hook};
use crate::abi::{BOOL, INT, SIDETRACK_BLOCKING_HOOK, SOCKET_ERROR};
use crate::call;
use crate::error::{WSAEINVAL, WinsockError};

/// Sets the function that is called while a call of this thread waits. Returns the previous one, or
/// NULL.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetBlockingHook(
    lpBlockFunc: SIDETRACK_BLOCKING_HOOK,
) -> SIDETRACK_BLOCKING_HOOK {
    call::value(None, || Ok(HOOK.replace(lpBlockFunc)))
}

/// Removes the blocking hook of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn WSAUnhookBlockingHook() -> INT {
    call::status(|| {
        HOOK.set(None);
        Ok(())
    })
}

/// Returns whether a call of this thread is waiting. That is true only within the hook.
#[unsafe(no_mangle)]
pub extern "C" fn WSAIsBlocking() -> BOOL {
    is_in_hook().into()
}

/// Makes the waiting call fail with WSAEINTR. To be called within the hook; error: WSAEINVAL if no
/// call waits.
#[unsafe(no_mangle)]
pub extern "C" fn WSACancelBlockingCall() -> INT {
    let cancelled = call::guard(|| match is_in_hook() {
        true => {
            CANCELLED.set(true);
            Ok(0)
        }
        false => Err(WinsockError(WSAEINVAL)),
    });
    call::value_or_last_error(SOCKET_ERROR, cancelled)
}
