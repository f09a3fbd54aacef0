//! WSAStartup and WSACleanup, and the reading in use.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::env;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::abi::{INT, SIDETRACK_READING_R1, SIDETRACK_READING_R2, SIDETRACK_READING_R3, WORD};
use crate::error::{WSANOTINITIALISED, WSAVERNOTSUPPORTED, WinsockError, WinsockResult};
use crate::{credentials, overlapped};

/// The highest supported version of Winsock: 2.2.
const VERSION: WORD = 0x0202;
/// Name of the environment variable with the reading: R1, R2 or R3.
const READING_VARIABLE: &str = "SIDETRACK_WINSOCK_READING";

/// Number of calls of WSAStartup without WSACleanup.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// One of the constants SIDETRACK_READING_R1 to R3.
static READING: AtomicI32 = AtomicI32::new(SIDETRACK_READING_R1);

pub(crate) fn is_started() -> bool {
    STARTED.load(Ordering::Relaxed) > 0
}

/// The reading in use: the answer to a buffer that is too small (docs/wfp.md, 1.6).
pub(crate) fn reading() -> INT {
    READING.load(Ordering::Relaxed)
}

/// Sets the reading. Returns false if there is no such reading.
fn set_reading(reading: INT) -> bool {
    let known = (SIDETRACK_READING_R1..=SIDETRACK_READING_R3).contains(&reading);
    if known {
        READING.store(reading, Ordering::Relaxed);
    }
    known
}

/// Counts one start. Returns the version to be used. Error: WSAVERNOTSUPPORTED.
fn start(wanted: WORD) -> WinsockResult<WORD> {
    let version = match wanted.to_le_bytes() {
        [0, _] => return Err(WinsockError(WSAVERNOTSUPPORTED)),
        [1, minor @ 0..=1] => WORD::from_le_bytes([1, minor]),
        [1, _] => WORD::from_le_bytes([1, 1]),
        [2, minor @ 0..=1] => WORD::from_le_bytes([2, minor]),
        _ => VERSION,
    };
    if STARTED.fetch_add(1, Ordering::Relaxed) == 0 {
        credentials::read_environment();
        match env::var(READING_VARIABLE).as_deref() {
            Ok("R2") => set_reading(SIDETRACK_READING_R2),
            Ok("R3") => set_reading(SIDETRACK_READING_R3),
            _ => true,
        };
    }
    Ok(version)
}

/// Undoes one start. The last one aborts all pending operations. Error: WSANOTINITIALISED.
fn clean_up() -> WinsockResult<()> {
    let one_less = |count: u32| count.checked_sub(1);
    match STARTED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        Err(_) => Err(WinsockError(WSANOTINITIALISED)),
        Ok(1) => {
            overlapped::abort_all();
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
