//! The C function that sets the credentials.
#![allow(non_snake_case)] // the names follow those of the Windows headers

use std::ffi::c_char;

use crate::abi::{INT, SOCKET_ERROR};
use crate::call;
use crate::error::{WSA_INVALID_PARAMETER, WSAEFAULT, WinsockError};
use crate::memory::{MemoryRange, copy_in};

/// Number of hexadecimal digits of the credentials.
const DIGITS: usize = 64;

/// Not part of Windows: sets the credentials of the service that this process belongs to, as 64
/// hexadecimal digits. Needed if they are not in the environment variable SIDETRACK_LISTEN; to be
/// called before listen. Errors: WSA_INVALID_PARAMETER, WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackSetCredentials(digits: *const c_char) -> INT {
    let set = call::guard_always(|| {
        let range = MemoryRange {
            address: digits.expose_provenance(),
            length: DIGITS,
        };
        let text = copy_in(range)
            .filter(|_| !digits.is_null())
            .ok_or(WinsockError(WSAEFAULT))?;
        let text = std::str::from_utf8(&text).map_err(|_| WinsockError(WSA_INVALID_PARAMETER))?;
        match super::set(text) {
            true => Ok(0),
            false => Err(WinsockError(WSA_INVALID_PARAMETER)),
        }
    });
    call::value_or_last_error(SOCKET_ERROR, set)
}
