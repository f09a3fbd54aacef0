//! Event objects: set until reset, waited for by any number of threads.
//!
//! An event is an eventfd, readable while it is set. Its handle is no descriptor, and a multiple of four as on Windows,
//! so that the lowest bit is the application's. Only events that exist are ever written to.

#[allow(unsafe_code)]
pub(crate) mod ffi;
mod wait;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock};

use rustix::event::{EventfdFlags, eventfd};
pub(crate) use wait::sleep;

use crate::abi::HANDLE;
use crate::error::{Fault, Reply, WSA_INVALID_HANDLE, WSA_NOT_ENOUGH_MEMORY};

static EVENTS: RwLock<Option<HashMap<usize, OwnedFd>>> = RwLock::new(None);

/// A signal that stays: an eventfd.
pub(crate) fn signal() -> Reply<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|_| Fault(WSA_NOT_ENOUGH_MEMORY))
}

pub(crate) fn raise(signal: &OwnedFd) {
    let _ = rustix::io::write(signal, &1_u64.to_ne_bytes()); // only "full" can fail, and that is set
}

pub(crate) fn lower(signal: &OwnedFd) {
    let _ = rustix::io::read(signal, &mut [0; 8]); // "empty" is fine
}

fn create() -> Reply<HANDLE> {
    let signal = signal()?;
    let key = (signal.as_raw_fd() as usize + 1) << 2;
    let mut events = EVENTS.write().unwrap_or_else(PoisonError::into_inner);
    events.get_or_insert_default().insert(key, signal);
    Ok(std::ptr::without_provenance_mut(key))
}

fn close(event: HANDLE) -> Reply<()> {
    let mut events = EVENTS.write().unwrap_or_else(PoisonError::into_inner);
    let closed = (events.as_mut()).and_then(|events| events.remove(&key(event)));
    closed.map(drop).ok_or(Fault(WSA_INVALID_HANDLE))
}

fn with<T>(event: HANDLE, act: impl FnOnce(&OwnedFd) -> T) -> Reply<T> {
    let events = EVENTS.read().unwrap_or_else(PoisonError::into_inner);
    let signal = events.as_ref().and_then(|events| events.get(&key(event)));
    signal.map(act).ok_or(Fault(WSA_INVALID_HANDLE))
}

/// Error: WSA_INVALID_HANDLE.
pub(crate) fn set(event: HANDLE) -> Reply<()> {
    with(event, raise)
}

/// Error: WSA_INVALID_HANDLE.
pub(crate) fn reset(event: HANDLE) -> Reply<()> {
    with(event, lower)
}

fn key(event: HANDLE) -> usize {
    event.addr() & !3
}
