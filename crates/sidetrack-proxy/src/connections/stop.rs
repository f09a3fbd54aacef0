//! How loops are stopped.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use sidetrack::Error;

/// Tells any number of loops to stop.
#[derive(Debug)]
pub struct Stop {
    event: OwnedFd,
    deadline: OnceLock<Instant>,
}

impl Stop {
    /// Not stopped. Errors: [`Error::System`], if there is no descriptor left.
    pub fn new() -> Result<Self, Error> {
        let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|source| Error::System {
            what: "make an event",
            source: source.into(),
        })?;
        let deadline = OnceLock::new();
        Ok(Self { event, deadline })
    }

    /// No connection is accepted any more, and those open have so long to end by themselves. Only the
    /// first call counts.
    pub fn stop(&self, grace: Duration) {
        if self.deadline.set(Instant::now() + grace).is_ok() {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes()); // cannot fail: it is the first
        }
    }

    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Of a stop that was told.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get().copied().unwrap_or_else(Instant::now)
    }
}
