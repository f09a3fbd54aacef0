//! eventfds, each readable while it is set. Events and the queues of APCs are made of them.

use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

use crate::error::{WSA_NOT_ENOUGH_MEMORY, WinsockError, WinsockResult};

/// Creates an eventfd that is not set. Error: WSA_NOT_ENOUGH_MEMORY.
pub(crate) fn create() -> WinsockResult<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|_| WinsockError(WSA_NOT_ENOUGH_MEMORY))
}

pub(crate) fn set(eventfd: &OwnedFd) {
    // Fails only if the counter is full, and then the eventfd is set.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

pub(crate) fn clear(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0; 8]); // fails if it is not set
}
