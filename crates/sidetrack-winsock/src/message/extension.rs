//! The addresses of WSARecvMsg and WSASendMsg, which a program gets by their GUIDs.

use super::ffi;
use crate::abi::GUID;

const WSAID_WSARECVMSG: GUID = GUID {
    Data1: 0xf689_d7c8,
    Data2: 0x6f1f,
    Data3: 0x436b,
    Data4: [0x8a, 0x53, 0xe5, 0x4f, 0xe3, 0x51, 0xc3, 0x22],
};
const WSAID_WSASENDMSG: GUID = GUID {
    Data1: 0xa441_e712,
    Data2: 0x754f,
    Data3: 0x43ca,
    Data4: [0x84, 0xa7, 0x0d, 0xee, 0x44, 0xcf, 0x60, 0x6d],
};

/// The address of an extension function.
pub(crate) fn function(wanted: &GUID) -> Option<usize> {
    match *wanted {
        WSAID_WSARECVMSG => Some(ffi::WSARecvMsg as *const () as usize),
        WSAID_WSASENDMSG => Some(ffi::WSASendMsg as *const () as usize),
        _ => None,
    }
}
