//! Stopping event loops.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use sidetrack::Error;

/// Stops any number of event loops. Each loop waits for the eventfd in it.
#[derive(Debug)]
pub struct Stop {
    event: OwnedFd,
    deadline: OnceLock<Instant>,
}

impl Stop {
    /// Makes a stop that has not been requested yet.
    ///
    /// Errors: [`Error::System`], if the kernel cannot make an eventfd, for example for lack of
    /// descriptors.
    pub fn new() -> Result<Self, Error> {
        let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|source| Error::System {
            what: "make an event",
            source: source.into(),
        })?;
        let deadline = OnceLock::new();
        Ok(Self { event, deadline })
    }

    /// Stops the loops: they accept no connection any more, and open connections have the time
    /// `grace` to end. Only the first call has an effect.
    pub fn stop(&self, grace: Duration) {
        if self.deadline.set(Instant::now() + grace).is_ok() {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes()); // the first write to an eventfd cannot fail
        }
    }

    /// Whether [`stop`](Self::stop) was called.
    pub(crate) fn is_requested(&self) -> bool {
        self.deadline.get().is_some()
    }

    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// When open connections are closed; now, if [`stop`](Self::stop) was not called.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get().copied().unwrap_or_else(Instant::now)
    }
}
