//! WSARecvMsg and WSASendMsg: redirected datagrams with their records and context as control data
//! (docs/wfp.md, 2).
//!
//! As on Windows, only the first datagram of a flow has this control data, so each socket has a
//! table of the flows that it knows. An answer must leave from the flow's own address
//! (docs/datagrams.md); the table has that address too.

pub(crate) mod extension;
#[allow(unsafe_code)]
pub(crate) mod ffi;
mod receive;
mod send;
#[allow(unsafe_code)]
mod sys;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::abi::{INT, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS};
use crate::error::{WSAEFAULT, WSAEINVAL, WSAENOPROTOOPT, WinsockError, WinsockResult};
use crate::memory::{self, MemoryRange};
use crate::socket;

/// An option that makes the library deliver redirect control data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RedirectOption {
    /// IP_WFP_REDIRECT_RECORDS.
    Records,
    /// IP_WFP_REDIRECT_CONTEXT.
    Context,
}

impl RedirectOption {
    /// The option with this number, at the level IPPROTO_IP or IPPROTO_IPV6.
    pub(crate) fn of(level: INT, option: INT) -> Option<Self> {
        match (level, option) {
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, IP_WFP_REDIRECT_RECORDS) => Some(Self::Records),
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, IP_WFP_REDIRECT_CONTEXT) => Some(Self::Context),
            _ => None,
        }
    }
}

/// Sets one of the options; `value` is a BOOL or a DWORD. Errors: WSAENOPROTOOPT (not a UDP
/// socket), WSAEFAULT.
pub(crate) fn set_redirect_option(
    socket: i32,
    wanted: RedirectOption,
    value: MemoryRange,
) -> WinsockResult<()> {
    let on = match value.length {
        0 => None,
        1..4 => memory::read(std::ptr::with_exposed_provenance::<u8>(value.address)).map(u32::from),
        _ => memory::read(std::ptr::with_exposed_provenance::<u32>(value.address)),
    };
    let on = on.ok_or(WinsockError(WSAEFAULT))? != 0;
    if !sys::is_udp(socket) {
        return Err(WinsockError(WSAENOPROTOOPT));
    }
    sys::enable_packet_info(socket).map_err(WinsockError::from_errno)?;
    socket::remember(socket, |entry| {
        let flow_table = entry.flow_table.get_or_insert_with(Arc::default);
        let flag = match wanted {
            RedirectOption::Records => &flow_table.wants_records,
            RedirectOption::Context => &flow_table.wants_context,
        };
        flag.store(on, Ordering::Relaxed);
    });
    mark_if_redirect_option_is_set(socket)
}

/// Marks a UDP socket as the service's if it has one of the options and is bound. Called after each
/// of these two events, which may come in any order.
pub(crate) fn mark_if_redirect_option_is_set(socket: i32) -> WinsockResult<()> {
    if socket::flow_table(socket).is_none() || !sys::is_bound(socket) {
        return Ok(());
    }
    match socket::mark(socket) {
        Ok(()) | Err(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => Ok(()),
        Err(libc::EINVAL) => Err(WinsockError(WSAEINVAL)), // not bound to the wildcard address
        Err(errno) => Err(WinsockError::from_mark_errno(errno)),
    }
}
