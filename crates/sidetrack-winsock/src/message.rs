//! WSARecvMsg and WSASendMsg: redirected datagrams with their records and contexts as control data (spec 2).
//!
//! On Windows only a flow's first datagram has them, and so it is here: whose datagrams came before is remembered. An
//! answer must leave from the address that the flow has of its own, see docs/datagrams.md; that too is taken from
//! there.

#[allow(unsafe_code)]
pub(crate) mod ffi;
mod receive;
mod send;
mod session;
#[allow(unsafe_code)]
mod sys;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use receive::Receive;
pub(crate) use session::Sessions;

use crate::abi::{GUID, INT, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS};
use crate::error::{Fault, Reply, WSAEFAULT, WSAEINVAL, WSAENOPROTOOPT};
use crate::memory::{self, Span};
use crate::socket;

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

/// A kind of control data that a program asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Records,
    Context,
}

impl Wanted {
    /// The option, at either level.
    pub(crate) fn of(level: INT, option: INT) -> Option<Self> {
        match (level, option) {
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, IP_WFP_REDIRECT_RECORDS) => Some(Self::Records),
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, IP_WFP_REDIRECT_CONTEXT) => Some(Self::Context),
            _ => None,
        }
    }
}

/// The function's address.
pub(crate) fn extension(wanted: &GUID) -> Option<usize> {
    match *wanted {
        WSAID_WSARECVMSG => Some(ffi::WSARecvMsg as *const () as usize),
        WSAID_WSASENDMSG => Some(ffi::WSASendMsg as *const () as usize),
        _ => None,
    }
}

/// setsockopt of IP_WFP_REDIRECT_…: a BOOL or DWORD. Errors: WSAENOPROTOOPT (not a UDP socket), WSAEFAULT.
pub(crate) fn want(socket: i32, wanted: Wanted, value: Span) -> Reply<()> {
    let on = match value.length {
        0 => None,
        1..4 => memory::load(std::ptr::with_exposed_provenance::<u8>(value.address)).map(u32::from),
        _ => memory::load(std::ptr::with_exposed_provenance::<u32>(value.address)),
    };
    let on = on.ok_or(Fault(WSAEFAULT))? != 0;
    if !sys::is_udp(socket) {
        return Err(Fault(WSAENOPROTOOPT));
    }
    sys::ask_for_own_address(socket).map_err(Fault::of_errno)?;
    socket::remember(socket, |entry| {
        let sessions = entry.datagrams.get_or_insert_with(Arc::default);
        let flag = match wanted {
            Wanted::Records => &sessions.wants_records,
            Wanted::Context => &sessions.wants_context,
        };
        flag.store(on, Ordering::Relaxed);
    });
    mark_if_wanted(socket)
}

/// A UDP socket that wants redirect control data becomes the service's as soon as it has a port, whichever came first.
pub(crate) fn mark_if_wanted(socket: i32) -> Reply<()> {
    if socket::sessions(socket).is_none() || !sys::has_port(socket) {
        return Ok(());
    }
    match socket::mark(socket) {
        Ok(()) | Err(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => Ok(()),
        Err(libc::EINVAL) => Err(Fault(WSAEINVAL)), // not bound to the wildcard address
        Err(errno) => Err(Fault::of_mark(errno)),
    }
}
