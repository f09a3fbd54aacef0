//! Sockets: plain descriptors, and a table of the properties for which Linux has no place.
//!
//! The table has an entry only for a socket with such a property. The entry has the socket's
//! cookie, so a descriptor that was closed without `closesocket`, and given out again, is
//! recognised as another socket.

#[allow(unsafe_code)]
pub(crate) mod ffi;
#[allow(unsafe_code)]
mod sys;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sidetrack_abi::kernel;
pub(crate) use sys::{
    cookie, get_option, has_no_datagram_yet, is_connecting, is_ipv4, is_nonblocking, is_socket,
    poll, protocol, set_value, set_value_at,
};

use crate::abi::SOCKET;
use crate::credentials;
use crate::error::{WSAENOTSOCK, WinsockError, WinsockResult};
use crate::flow_table::FlowTable;

/// The properties of a socket.
#[derive(Clone, Default)]
pub(crate) struct Attributes {
    cookie: u64,
    /// Whether the socket lacks the overlapped attribute.
    synchronous: bool,
    /// Whether the kernel side has marked the socket, or its listener, as the service's.
    marked: bool,
    /// The options for redirect control data, and the flows that the socket knows.
    pub(crate) flow_table: Option<Arc<FlowTable>>,
}

static TABLE: RwLock<Option<HashMap<i32, Attributes>>> = RwLock::new(None);
/// Number of entries with a flow table.
static DATAGRAM_LISTENERS: AtomicU32 = AtomicU32::new(0);

/// The caller's descriptor. Error: WSAENOTSOCK if the number cannot be one.
pub(crate) fn descriptor(socket: SOCKET) -> WinsockResult<i32> {
    i32::try_from(socket).map_err(|_| WinsockError(WSAENOTSOCK))
}

/// The caller's descriptor, if it is a socket. Error: WSAENOTSOCK.
pub(crate) fn checked(socket: SOCKET) -> WinsockResult<i32> {
    let descriptor = descriptor(socket)?;
    match is_socket(descriptor) {
        true => Ok(descriptor),
        false => Err(WinsockError(WSAENOTSOCK)),
    }
}

/// Whether the socket has the overlapped attribute. A socket that the library did not create has
/// it.
pub(crate) fn is_overlapped(socket: i32) -> bool {
    attributes(socket).is_none_or(|known| !known.synchronous)
}

/// Whether an engine has marked the socket or its listener before.
pub(crate) fn had_engine(socket: i32) -> bool {
    attributes(socket).is_some_and(|known| known.marked)
}

/// Whether the socket is a UDP socket that delivers redirect control data.
pub(crate) fn is_datagram_listener(socket: i32) -> bool {
    flow_table(socket).is_some()
}

/// The flow table of such a socket.
pub(crate) fn flow_table(socket: i32) -> Option<Arc<FlowTable>> {
    if DATAGRAM_LISTENERS.load(Ordering::Relaxed) == 0 {
        return None;
    }
    attributes(socket)?.flow_table
}

/// Changes the properties of a socket.
pub(crate) fn remember(socket: i32, change: impl FnOnce(&mut Attributes)) {
    let cookie = cookie(socket);
    let mut table = write_table();
    let entry = table.get_or_insert_default().entry(socket).or_default();
    if entry.cookie != cookie {
        count_removed(entry);
        *entry = Attributes {
            cookie,
            ..Attributes::default()
        };
    }
    let before = entry.flow_table.is_some();
    change(entry);
    if entry.flow_table.is_some() && !before {
        DATAGRAM_LISTENERS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Copies the properties of a listener to an accepted socket.
fn inherit(listener: i32, accepted: i32) {
    if let Some(known) = attributes(listener) {
        remember(accepted, |entry| {
            entry.synchronous = known.synchronous;
            entry.marked = known.marked;
        });
    }
}

/// Removes the entry of a socket whose descriptor will be closed.
fn forget(socket: i32) {
    if let Some(entry) = write_table()
        .as_mut()
        .and_then(|table| table.remove(&socket))
    {
        count_removed(&entry);
    }
}

/// Updates the number of flow tables after an entry was removed.
fn count_removed(entry: &Attributes) {
    if entry.flow_table.is_some() {
        DATAGRAM_LISTENERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks a listening socket as the service's, if the process has the credentials of a service. Only
/// the first listener of each family can be marked. Fails with errno.
pub(crate) fn mark(socket: i32) -> Result<(), i32> {
    let Some(credentials) = credentials::get() else {
        return Ok(());
    };
    match set_value(socket, kernel::SOL_SIDETRACK, kernel::LISTEN, &credentials) {
        Ok(()) | Err(libc::EALREADY) => {
            remember(socket, |entry| entry.marked = true);
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// The properties of a socket, if it has an entry.
fn attributes(socket: i32) -> Option<Attributes> {
    let known = read_table().as_ref()?.get(&socket)?.clone();
    (known.cookie == cookie(socket)).then_some(known)
}

fn read_table() -> RwLockReadGuard<'static, Option<HashMap<i32, Attributes>>> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_table() -> RwLockWriteGuard<'static, Option<HashMap<i32, Attributes>>> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}
