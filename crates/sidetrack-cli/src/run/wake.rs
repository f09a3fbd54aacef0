//! What happens beside the kernel's events, from the threads that wait for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use sidetrack_proxy::FlowLine;

/// Something that happened.
pub(super) enum Happening {
    /// A connection has ended.
    Flow(Box<FlowLine>),
    /// Somebody sent us a signal.
    Signal(i32),
    /// The command has ended.
    ProgramEnded(ExitStatus),
    /// A proxy has ended, by its place in the chain.
    ProxyEnded(usize, ExitStatus),
}

/// Tells of happenings, and wakes the main thread, which waits on a descriptor.
#[derive(Clone)]
pub(super) struct Wake {
    sender: Sender<Happening>,
    bell: Arc<OwnedFd>,
}

impl Wake {
    pub(super) fn new(sender: Sender<Happening>) -> Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let bell = eventfd(0, flags).context("make an eventfd")?;
        Ok(Self {
            sender,
            bell: Arc::new(bell),
        })
    }

    pub(super) fn tell(&self, happening: Happening) {
        // At the very end nobody listens any more; then there is nothing to tell.
        if self.sender.send(happening).is_ok() {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]); // empty is fine
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
