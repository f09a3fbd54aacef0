//! Sockets: plain descriptors, and what Linux has no place for.
//!
//! The table has an entry only for sockets with something to remember. It knows a socket by its cookie, so a
//! descriptor that was closed behind our back and given out again is another socket.

#[allow(unsafe_code)]
pub(crate) mod ffi;
#[allow(unsafe_code)]
mod sys;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sidetrack_abi::kernel;
pub(crate) use sys::{
    awaits_datagram, cookie, get_option, is_connecting, is_nonblocking, is_socket, local_is_v4,
    poll, protocol, set_value, set_value_at,
};

use crate::abi::SOCKET;
use crate::credentials;
use crate::error::{Fault, Reply, WSAENOTSOCK};
use crate::message::Sessions;

/// What is remembered of a socket.
#[derive(Clone, Default)]
pub(crate) struct Attributes {
    cookie: u64,
    /// It has not the overlapped attribute.
    synchronous: bool,
    /// The kernel side has taken it, or its listener, as the service's.
    marked: bool,
    /// Which control data it wants, and whose datagrams it has seen.
    pub(crate) datagrams: Option<Arc<Sessions>>,
}

static TABLE: RwLock<Option<HashMap<i32, Attributes>>> = RwLock::new(None);
/// Entries with datagrams.
static DATAGRAM_LISTENERS: AtomicU32 = AtomicU32::new(0);

/// A descriptor of the caller's. Errors: WSAENOTSOCK if no descriptor has such a number.
pub(crate) fn descriptor(socket: SOCKET) -> Reply<i32> {
    i32::try_from(socket).map_err(|_| Fault(WSAENOTSOCK))
}

/// The same, of a socket indeed.
pub(crate) fn checked(socket: SOCKET) -> Reply<i32> {
    let descriptor = descriptor(socket)?;
    match is_socket(descriptor) {
        true => Ok(descriptor),
        false => Err(Fault(WSAENOTSOCK)),
    }
}

/// Whether overlapped calls are so on this socket. One that the library has not made has the attribute.
pub(crate) fn is_overlapped(socket: i32) -> bool {
    attributes(socket).is_none_or(|known| !known.synchronous)
}

/// Whether an engine has answered for it.
pub(crate) fn had_engine(socket: i32) -> bool {
    attributes(socket).is_some_and(|known| known.marked)
}

/// Whether its datagrams carry redirect control data.
pub(crate) fn is_datagram_listener(socket: i32) -> bool {
    sessions(socket).is_some()
}

pub(crate) fn sessions(socket: i32) -> Option<Arc<Sessions>> {
    if DATAGRAM_LISTENERS.load(Ordering::Relaxed) == 0 {
        return None;
    }
    attributes(socket)?.datagrams
}

/// Changes what is remembered.
pub(crate) fn remember(socket: i32, change: impl FnOnce(&mut Attributes)) {
    let cookie = cookie(socket);
    let mut table = write();
    let entry = table.get_or_insert_default().entry(socket).or_default();
    if entry.cookie != cookie {
        forgotten(entry);
        *entry = Attributes {
            cookie,
            ..Attributes::default()
        };
    }
    let before = entry.datagrams.is_some();
    change(entry);
    if entry.datagrams.is_some() && !before {
        DATAGRAM_LISTENERS.fetch_add(1, Ordering::Relaxed);
    }
}

/// An accepted socket has its listener's properties.
fn inherit(listener: i32, accepted: i32) {
    if let Some(known) = attributes(listener) {
        remember(accepted, |entry| {
            entry.synchronous = known.synchronous;
            entry.marked = known.marked;
        });
    }
}

/// Before its descriptor is closed.
fn forget(socket: i32) {
    if let Some(entry) = write().as_mut().and_then(|table| table.remove(&socket)) {
        forgotten(&entry);
    }
}

fn forgotten(entry: &Attributes) {
    if entry.datagrams.is_some() {
        DATAGRAM_LISTENERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has the kernel side take a listening socket as the service's, if this process is one. The first of each family is;
/// others are the program's own business.
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

fn attributes(socket: i32) -> Option<Attributes> {
    let known = read().as_ref()?.get(&socket)?.clone();
    (known.cookie == cookie(socket)).then_some(known)
}

fn read() -> RwLockReadGuard<'static, Option<HashMap<i32, Attributes>>> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Option<HashMap<i32, Attributes>>> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}
