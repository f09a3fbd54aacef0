//! The entries.
#![allow(non_snake_case)] // the header's own names

use super::{CANCELLED, HOOK, is_in_hook};
use crate::abi::{BOOL, INT, SIDETRACK_BLOCKING_HOOK, SOCKET_ERROR};
use crate::call;
use crate::error::{Fault, WSAEINVAL};

/// Sets what runs while a call of this thread waits. Returns the hook before.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetBlockingHook(
    lpBlockFunc: SIDETRACK_BLOCKING_HOOK,
) -> SIDETRACK_BLOCKING_HOOK {
    call::value(None, || Ok(HOOK.replace(lpBlockFunc)))
}

/// Takes the hook away.
#[unsafe(no_mangle)]
pub extern "C" fn WSAUnhookBlockingHook() -> INT {
    call::status(|| {
        HOOK.set(None);
        Ok(())
    })
}

/// Whether a call of this thread waits: true only within the hook.
#[unsafe(no_mangle)]
pub extern "C" fn WSAIsBlocking() -> BOOL {
    is_in_hook().into()
}

/// Within the hook: the waiting call ends with WSAEINTR. Error: WSAEINVAL if none waits.
#[unsafe(no_mangle)]
pub extern "C" fn WSACancelBlockingCall() -> INT {
    let cancelled = call::guard(|| match is_in_hook() {
        true => {
            CANCELLED.set(true);
            Ok(0)
        }
        false => Err(Fault(WSAEINVAL)),
    });
    call::told(SOCKET_ERROR, cancelled)
}
