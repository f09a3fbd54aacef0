//! Descriptors that are registered with a tokio runtime.

use std::os::fd::{BorrowedFd, OwnedFd};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

use crate::Error;

/// Duplicates of a listener's descriptors, registered with the runtime.
#[derive(Debug)]
pub(crate) struct AsyncSockets {
    /// The listening sockets, IPv4 first.
    pub(crate) listeners: Vec<AsyncFd<OwnedFd>>,
    /// Of a listener that pends: the ring buffer, and the counter of other arrivals.
    pub(crate) pended: Option<[AsyncFd<OwnedFd>; 2]>,
}

impl AsyncSockets {
    /// Must be called within a tokio runtime.
    pub(crate) fn new<'a>(
        listeners: impl Iterator<Item = BorrowedFd<'a>>,
        pended: Option<[BorrowedFd<'_>; 2]>,
    ) -> Result<Self, Error> {
        let both = |[ring, others]: [_; 2]| Ok::<_, Error>([register(ring)?, register(others)?]);
        Ok(Self {
            listeners: listeners.map(register).collect::<Result<_, Error>>()?,
            pended: pended.map(both).transpose()?,
        })
    }
}

fn register(descriptor: BorrowedFd<'_>) -> Result<AsyncFd<OwnedFd>, Error> {
    // Deprecated for types that could return another descriptor later, which `OwnedFd` does not. Its
    // successor is unsafe, and later than the tokio that this crate needs.
    #[allow(deprecated)]
    let register = |duplicate| AsyncFd::with_interest(duplicate, Interest::READABLE);
    descriptor
        .try_clone_to_owned()
        .and_then(register)
        .map_err(Error::system("hand the listener to tokio"))
}
