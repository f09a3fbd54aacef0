//! The C functions for starting the library, and for the last error.
#![allow(non_snake_case)] // the names are those of the Windows headers

use std::ffi::c_char;

use crate::abi::{INT, SOCKET_ERROR, WORD, WSADATA};
use crate::error::{WSA_INVALID_PARAMETER, WSAEFAULT, WinsockError};
use crate::memory::CallerPointer;
use crate::{call, reading};

/// Starts the use of the library by this process. Returns 0, or an error: WSAVERNOTSUPPORTED,
/// WSAEFAULT.
#[unsafe(no_mangle)]
pub extern "C" fn WSAStartup(wVersionRequested: WORD, lpWSAData: *mut WSADATA) -> INT {
    let started = call::guard_always(|| {
        let data = CallerPointer::new(lpWSAData).ok_or(WinsockError(WSAEFAULT))?;
        let version = super::start(wVersionRequested)?;
        data.store(describe(version));
        Ok(())
    });
    match started {
        Ok(()) => 0,
        Err(WinsockError(error)) => error,
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

/// Ends one start. The last call aborts all pending operations. Error: WSANOTINITIALISED.
#[unsafe(no_mangle)]
pub extern "C" fn WSACleanup() -> INT {
    let ended = call::guard_always(super::clean_up).map(|()| 0);
    call::value_or_last_error(SOCKET_ERROR, ended)
}

/// Returns the last error of the calling thread.
#[unsafe(no_mangle)]
pub extern "C" fn WSAGetLastError() -> INT {
    call::last_error()
}

/// Sets the last error of the calling thread.
#[unsafe(no_mangle)]
pub extern "C" fn WSASetLastError(iError: INT) {
    call::set_last_error(iError);
}

/// Not part of Windows: sets the answer to a buffer that is too small, SIDETRACK_READING_R1 to
/// SIDETRACK_READING_R3, for the whole process. The first WSAStartup takes it from the environment
/// variable SIDETRACK_WINSOCK_READING. Error: WSA_INVALID_PARAMETER.
#[unsafe(no_mangle)]
pub extern "C" fn SidetrackSetReading(reading: INT) -> INT {
    match reading::set(reading) {
        true => 0,
        false => call::value_or_last_error(SOCKET_ERROR, Err(WinsockError(WSA_INVALID_PARAMETER))),
    }
}
