//! The entry.
#![allow(non_snake_case)] // the header's own names

use std::ffi::c_char;

use crate::abi::{INT, SOCKET_ERROR};
use crate::call;
use crate::error::{Fault, WSA_INVALID_PARAMETER, WSAEFAULT};
use crate::memory::{Span, get};

/// Digits of the credentials.
const DIGITS: usize = 64;

/// Not of Windows: the credentials of the service that this process is, 64 hexadecimal digits, if they are not in the
/// environment variable SIDETRACK_LISTEN. Before listen. Errors: WSA_INVALID_PARAMETER, WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackSetCredentials(digits: *const c_char) -> INT {
    let set = call::guard_always(|| {
        let span = Span {
            address: digits.expose_provenance(),
            length: DIGITS,
        };
        let text = get(span)
            .filter(|_| !digits.is_null())
            .ok_or(Fault(WSAEFAULT))?;
        let text = std::str::from_utf8(&text).map_err(|_| Fault(WSA_INVALID_PARAMETER))?;
        match super::set(text) {
            true => Ok(0),
            false => Err(Fault(WSA_INVALID_PARAMETER)),
        }
    });
    call::told(SOCKET_ERROR, set)
}
