//! The reading in use: how a buffer that is too small is answered (docs/wfp.md, 1.6). One for the
//! whole process.

use std::env;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::abi::{DWORD, INT, SIDETRACK_READING_R1, SIDETRACK_READING_R2, SIDETRACK_READING_R3};
use crate::error::{ERROR_INSUFFICIENT_BUFFER, WSAEFAULT, WSAEINVAL};

/// Name of the environment variable with the reading: R1, R2 or R3.
const VARIABLE: &str = "SIDETRACK_WINSOCK_READING";

/// One of the constants SIDETRACK_READING_R1 to R3.
static READING: AtomicI32 = AtomicI32::new(SIDETRACK_READING_R1);

/// The error and the number of bytes for a buffer that is too small, under the reading in use.
pub(crate) fn too_small(needed: DWORD) -> (INT, DWORD) {
    match READING.load(Ordering::Relaxed) {
        SIDETRACK_READING_R2 => (WSAEINVAL, 0),
        SIDETRACK_READING_R3 => (WSAEFAULT, needed),
        _ => (ERROR_INSUFFICIENT_BUFFER, needed),
    }
}

/// Sets the reading. Returns false if there is no such reading.
pub(crate) fn set(reading: INT) -> bool {
    let known = (SIDETRACK_READING_R1..=SIDETRACK_READING_R3).contains(&reading);
    if known {
        READING.store(reading, Ordering::Relaxed);
    }
    known
}

/// Takes the reading from the environment, if it is R2 or R3.
pub(crate) fn read_environment() {
    let reading = match env::var(VARIABLE).as_deref() {
        Ok("R2") => SIDETRACK_READING_R2,
        Ok("R3") => SIDETRACK_READING_R3,
        _ => return,
    };
    set(reading);
}
