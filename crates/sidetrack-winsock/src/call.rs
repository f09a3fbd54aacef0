//! What holds at every entry: the library was started, no panic gets out, and the error is the thread's.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use crate::abi::{INT, SOCKET_ERROR};
use crate::error::{Fault, Reply, WSAEINPROGRESS, WSANOTINITIALISED, WSASYSCALLFAILURE};
use crate::{blocking, startup};

thread_local! {
    static LAST_ERROR: Cell<INT> = const { Cell::new(0) };
}

/// The thread's last error.
pub(crate) fn last_error() -> INT {
    LAST_ERROR.try_with(Cell::get).unwrap_or(0)
}

pub(crate) fn set_last_error(error: INT) {
    let _ = LAST_ERROR.try_with(|last| last.set(error)); // a thread at its end has none
}

/// Runs a call of a started program. A panic is WSASYSCALLFAILURE.
pub(crate) fn guard<T>(work: impl FnOnce() -> Reply<T>) -> Reply<T> {
    if !startup::is_started() {
        return Err(Fault(WSANOTINITIALISED));
    }
    guard_always(work)
}

/// Of any program's, started or not.
pub(crate) fn guard_always<T>(work: impl FnOnce() -> Reply<T>) -> Reply<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Fault(WSASYSCALLFAILURE)))
}

/// A call that gives a value, or `failed` and the thread's last error. Not within a blocking hook.
pub(crate) fn value<T>(failed: T, work: impl FnOnce() -> Reply<T>) -> T {
    let work = || match blocking::is_in_hook() {
        true => Err(Fault(WSAEINPROGRESS)),
        false => work(),
    };
    told(failed, guard(work))
}

/// The same for calls that give 0.
pub(crate) fn status(work: impl FnOnce() -> Reply<()>) -> INT {
    value(SOCKET_ERROR, || work().map(|()| 0))
}

/// The value, or the fault as the thread's last error.
pub(crate) fn told<T>(failed: T, reply: Reply<T>) -> T {
    reply.unwrap_or_else(|Fault(error)| {
        set_last_error(error);
        failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_no_more() {
        let failed = guard_always::<i32>(|| panic!("a bug"));
        assert_eq!(failed, Err(Fault(WSASYSCALLFAILURE)));
        assert_eq!(told(-1, failed), -1);
        assert_eq!(last_error(), WSASYSCALLFAILURE);
    }

    #[test]
    fn the_last_error_is_the_threads_own() {
        set_last_error(10_022);
        let other = std::thread::spawn(last_error).join();
        assert_eq!(other.unwrap(), 0);
        assert_eq!(last_error(), 10_022);
    }
}
