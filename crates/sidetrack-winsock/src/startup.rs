//! WSAStartup and WSACleanup: what the first start prepares, and what the last clean-up ends.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use crate::abi::WORD;
use crate::error::{WSAVERNOTSUPPORTED, WinsockError, WinsockResult};
use crate::{credentials, overlapped, reading, start_count};

/// The highest supported version of Winsock: 2.2.
const VERSION: WORD = 0x0202;

/// Counts one start. Returns the version to be used. Error: WSAVERNOTSUPPORTED.
fn start(wanted: WORD) -> WinsockResult<WORD> {
    let version = match wanted.to_le_bytes() {
        [0, _] => return Err(WinsockError(WSAVERNOTSUPPORTED)),
        [1, minor @ 0..=1] => WORD::from_le_bytes([1, minor]),
        [1, _] => WORD::from_le_bytes([1, 1]),
        [2, minor @ 0..=1] => WORD::from_le_bytes([2, minor]),
        _ => VERSION,
    };
    if start_count::add() {
        credentials::read_environment();
        reading::read_environment();
    }
    Ok(version)
}

/// Undoes one start. The last one aborts all pending operations. Error: WSANOTINITIALISED.
fn clean_up() -> WinsockResult<()> {
    if start_count::remove()? {
        overlapped::abort_all();
    }
    Ok(())
}
