//! The rules for every C function: the library must be started, no panic leaves the library, and an
//! error becomes the last error of the thread.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use crate::abi::{INT, SOCKET_ERROR};
use crate::error::{
    WSAEINPROGRESS, WSANOTINITIALISED, WSASYSCALLFAILURE, WinsockError, WinsockResult,
};
use crate::memory::CallerPointer;
use crate::{blocking, start_count};

thread_local! {
    static LAST_ERROR: Cell<INT> = const { Cell::new(0) };
}

/// The last error of the calling thread.
pub(crate) fn last_error() -> INT {
    LAST_ERROR.try_with(Cell::get).unwrap_or(0)
}

/// Sets the last error of the calling thread.
pub(crate) fn set_last_error(error: INT) {
    // While a thread ends, its thread-local values are gone, and the error with them.
    let _ = LAST_ERROR.try_with(|last| last.set(error));
}

/// Runs a function if the library has been started; otherwise the error is WSANOTINITIALISED. A
/// panic becomes WSASYSCALLFAILURE.
pub(crate) fn guard<T>(work: impl FnOnce() -> WinsockResult<T>) -> WinsockResult<T> {
    if !start_count::is_started() {
        return Err(WinsockError(WSANOTINITIALISED));
    }
    guard_always(work)
}

/// Runs a function whether the library has been started or not. A panic becomes WSASYSCALLFAILURE.
pub(crate) fn guard_always<T>(work: impl FnOnce() -> WinsockResult<T>) -> WinsockResult<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(WinsockError(WSASYSCALLFAILURE)))
}

/// Runs a function that returns a value. On failure returns `failed` and sets the thread's last
/// error. Within a blocking hook the error is WSAEINPROGRESS.
pub(crate) fn value<T>(failed: T, work: impl FnOnce() -> WinsockResult<T>) -> T {
    let work = || match blocking::is_in_hook() {
        true => Err(WinsockError(WSAEINPROGRESS)),
        false => work(),
    };
    value_or_last_error(failed, guard(work))
}

/// As `value`, for functions that return 0 on success and SOCKET_ERROR on failure.
pub(crate) fn status(work: impl FnOnce() -> WinsockResult<()>) -> INT {
    value(SOCKET_ERROR, || work().map(|()| 0))
}

/// Returns the value of `result`, or sets the thread's last error and returns `failed`.
pub(crate) fn value_or_last_error<T>(failed: T, result: WinsockResult<T>) -> T {
    result.unwrap_or_else(|WinsockError(error)| {
        set_last_error(error);
        failed
    })
}

/// Runs a function that reports its error as service providers do: at a pointer, not as the
/// thread's last error.
pub(crate) fn with_errno_at(errno: *mut INT, work: impl FnOnce() -> WinsockResult<()>) -> INT {
    let pointer = CallerPointer::new(errno);
    match guard(work) {
        Ok(()) => 0,
        Err(WinsockError(error)) => {
            if let Some(pointer) = pointer {
                pointer.store(error);
            }
            SOCKET_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let failed = guard_always::<i32>(|| panic!("a bug"));
        assert_eq!(failed, Err(WinsockError(WSASYSCALLFAILURE)));
        assert_eq!(value_or_last_error(-1, failed), -1);
        assert_eq!(last_error(), WSASYSCALLFAILURE);
    }

    #[test]
    fn each_thread_has_its_own_last_error() {
        set_last_error(10_022);
        let other = std::thread::spawn(last_error).join();
        assert_eq!(other.unwrap(), 0);
        assert_eq!(last_error(), 10_022);
    }
}
