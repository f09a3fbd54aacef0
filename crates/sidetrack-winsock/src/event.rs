//! Event objects. An event stays set until it is reset, and any number of threads can wait for it.
//!
//! An event is an eventfd that is readable while the event is set. Its handle is not a descriptor.
//! As on Windows it is a multiple of four, so that the application can use the lowest bit. The
//! library writes only to events that exist.

#[allow(unsafe_code)]
pub(crate) mod ffi;
mod wait;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock};

use crate::abi::HANDLE;
use crate::error::{WSA_INVALID_HANDLE, WinsockError, WinsockResult};
use crate::eventfd;

/// The eventfd of each event, by `key`.
static EVENTS: RwLock<Option<HashMap<usize, OwnedFd>>> = RwLock::new(None);

fn create() -> WinsockResult<HANDLE> {
    let eventfd = eventfd::create()?;
    let key = (eventfd.as_raw_fd() as usize + 1) << 2;
    let mut events = EVENTS.write().unwrap_or_else(PoisonError::into_inner);
    events.get_or_insert_default().insert(key, eventfd);
    Ok(std::ptr::without_provenance_mut(key))
}

fn close(event: HANDLE) -> WinsockResult<()> {
    let mut events = EVENTS.write().unwrap_or_else(PoisonError::into_inner);
    let closed = (events.as_mut()).and_then(|events| events.remove(&key(event)));
    closed.map(drop).ok_or(WinsockError(WSA_INVALID_HANDLE))
}

/// Calls `act` with the eventfd of an event.
fn with<T>(event: HANDLE, act: impl FnOnce(&OwnedFd) -> T) -> WinsockResult<T> {
    let events = EVENTS.read().unwrap_or_else(PoisonError::into_inner);
    let eventfd = events.as_ref().and_then(|events| events.get(&key(event)));
    eventfd.map(act).ok_or(WinsockError(WSA_INVALID_HANDLE))
}

/// Sets an event. Error: WSA_INVALID_HANDLE.
pub(crate) fn set(event: HANDLE) -> WinsockResult<()> {
    with(event, eventfd::set)
}

/// Resets an event. Error: WSA_INVALID_HANDLE.
pub(crate) fn reset(event: HANDLE) -> WinsockResult<()> {
    with(event, eventfd::clear)
}

/// The handle without the bits that the application may use.
fn key(event: HANDLE) -> usize {
    event.addr() & !3
}
