//! Events of a run that threads other than the main thread detect, and how they reach the main
//! thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use sidetrack_proxy::FlowLine;

/// An event for the main thread.
pub(super) enum RunEvent {
    /// A built-in proxy has written the flow line of a connection or UDP flow that has ended.
    Flow(Box<FlowLine>),
    /// Another process has sent this process a signal, given by its number.
    Signal(i32),
    /// The command has ended.
    ProgramEnded(ExitStatus),
    /// The proxy with this index in the chain has ended.
    ProxyEnded(usize, ExitStatus),
}

/// Sends events to the main thread through a channel, and wakes it.
///
/// The main thread polls the descriptor of the sender: it becomes readable when an event is sent.
#[derive(Clone)]
pub(super) struct EventSender {
    sender: Sender<RunEvent>,
    wakeup: Arc<OwnedFd>,
}

impl EventSender {
    pub(super) fn new(sender: Sender<RunEvent>) -> Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let wakeup = eventfd(0, flags).context("cannot create an eventfd")?;
        Ok(Self {
            sender,
            wakeup: Arc::new(wakeup),
        })
    }

    pub(super) fn send(&self, event: RunEvent) {
        // At the end of the run the channel has no receiver any more, and the event is not needed.
        if self.sender.send(event).is_ok() {
            let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
        }
    }

    /// Resets the wake-up descriptor, before the channel is read.
    pub(super) fn clear_wakeup(&self) {
        let _ = rustix::io::read(&self.wakeup, &mut [0; 8]); // it fails if nothing was sent
    }
}

impl AsFd for EventSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }
}
