//! The number of starts of the library: WSAStartup adds one, WSACleanup removes one.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{WSANOTINITIALISED, WinsockError, WinsockResult};

/// Number of calls of WSAStartup without WSACleanup.
static STARTS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn is_started() -> bool {
    STARTS.load(Ordering::Relaxed) > 0
}

/// Counts one start. Returns whether it is the first.
pub(crate) fn add() -> bool {
    STARTS.fetch_add(1, Ordering::Relaxed) == 0
}

/// Undoes one start. Returns whether it was the last. Error: WSANOTINITIALISED if there is none.
pub(crate) fn remove() -> WinsockResult<bool> {
    let one_less = |count: u32| count.checked_sub(1);
    match STARTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        Err(_) => Err(WinsockError(WSANOTINITIALISED)),
        Ok(before) => Ok(before == 1),
    }
}
