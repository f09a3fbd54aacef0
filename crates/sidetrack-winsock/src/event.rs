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

use rustix::event::{EventfdFlags, eventfd};
pub(crate) use wait::sleep;

use crate::abi::HANDLE;
use crate::error::{WSA_INVALID_HANDLE, WSA_NOT_ENOUGH_MEMORY, WinsockError, WinsockResult};

/// The eventfd of each event, by `key`.
static EVENTS: RwLock<Option<HashMap<usize, OwnedFd>>> = RwLock::new(None);

/// Creates an eventfd that is not set. Error: WSA_NOT_ENOUGH_MEMORY.
pub(crate) fn new_eventfd() -> WinsockResult<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|_| WinsockError(WSA_NOT_ENOUGH_MEMORY))
}

pub(crate) fn set_eventfd(eventfd: &OwnedFd) {
    // Fails only if the counter is full, and then the event is set.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

pub(crate) fn clear_eventfd(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0; 8]); // fails if it is not set
}

fn create() -> WinsockResult<HANDLE> {
    let eventfd = new_eventfd()?;
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
    with(event, set_eventfd)
}

/// Resets an event. Error: WSA_INVALID_HANDLE.
pub(crate) fn reset(event: HANDLE) -> WinsockResult<()> {
    with(event, clear_eventfd)
}

/// The handle without the bits that the application may use.
fn key(event: HANDLE) -> usize {
    event.addr() & !3
}
