//! The entries.
#![allow(non_snake_case)] // the header's own names

use std::ffi::c_char;

use crate::abi::{INT, SOCKET_ERROR, WORD, WSADATA};
use crate::call;
use crate::error::{Fault, WSA_INVALID_PARAMETER, WSAEFAULT};
use crate::memory::Place;

/// Starts the use of the library by this process. Returns 0 or an error: WSAVERNOTSUPPORTED, WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WSAStartup(wVersionRequested: WORD, lpWSAData: *mut WSADATA) -> INT {
    let started = call::guard_always(|| {
        let data = Place::at(lpWSAData).ok_or(Fault(WSAEFAULT))?;
        let version = super::start(wVersionRequested)?;
        data.store(describe(version));
        Ok(())
    });
    match started {
        Ok(()) => 0,
        Err(Fault(error)) => error,
    }
}

fn describe(version: WORD) -> WSADATA {
    let mut data = WSADATA {
        wVersion: version,
        wHighVersion: super::VERSION,
        iMaxSockets: 0,
        iMaxUdpDg: 0,
        lpVendorInfo: std::ptr::null_mut(),
        szDescription: [0; 257],
        szSystemStatus: [0; 129],
    };
    write(
        &mut data.szDescription,
        "Sidetrack: WFP connection redirection on Linux",
    );
    write(&mut data.szSystemStatus, "Running");
    data
}

fn write(to: &mut [c_char], text: &str) {
    for (to, byte) in to.iter_mut().zip(text.bytes()) {
        *to = byte as c_char;
    }
}

/// Ends one start. At the last, what is pending is aborted.
#[unsafe(no_mangle)]
pub extern "C" fn WSACleanup() -> INT {
    let ended = call::guard_always(super::clean_up).map(|()| 0);
    call::told(SOCKET_ERROR, ended)
}

/// The calling thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn WSAGetLastError() -> INT {
    call::last_error()
}

/// Sets the calling thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetLastError(iError: INT) {
    call::set_last_error(iError);
}

/// Not of Windows: how a buffer that is too small is answered, SIDETRACK_READING_R1 to R3, for the whole process.
/// The environment variable SIDETRACK_WINSOCK_READING says it for the first WSAStartup. Error:
/// WSA_INVALID_PARAMETER.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackSetReading(reading: INT) -> INT {
    match super::set_reading(reading) {
        true => 0,
        false => call::told(SOCKET_ERROR, Err(Fault(WSA_INVALID_PARAMETER))),
    }
}
