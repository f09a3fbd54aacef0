//! A completed flow's connection that a thread or task waits for.

use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::arrivals::Arrived;
use super::notices::Notices;
use crate::Error;
use crate::listener::{Accepted, Sockets};
use crate::outgoing::Blocking;

/// How long a thread or task waits for a client whose SYN was let through. It usually takes
/// microseconds. If the SYN was lost, the client sends it again later; then it is not accepted.
pub(crate) const ACCEPT_MAX: Duration = Duration::from_secs(3);

/// A completed flow whose connection is waited for. If this is dropped before, the connection is
/// closed when it comes.
pub(crate) struct Expected {
    pub(crate) listener: Arc<Sockets>,
    notices: Arc<Notices>,
    /// Index of the listening socket.
    pub(crate) socket: usize,
    pub(crate) flow_id: u64,
    is_over: bool,
}

impl Expected {
    /// Starts to wait for a flow's connection, on the listening socket with this index.
    pub(super) fn new(
        listener: &Arc<Sockets>,
        notices: &Arc<Notices>,
        socket: usize,
        flow_id: u64,
    ) -> Self {
        listener.arrivals(socket).expect(flow_id);
        Self {
            listener: Arc::clone(listener),
            notices: Arc::clone(notices),
            socket,
            flow_id,
            is_over: false,
        }
    }

    /// Waits for the connection, for up to [`ACCEPT_MAX`].
    pub(super) fn wait(mut self) -> Result<Arrived, Error> {
        let deadline = Instant::now() + ACCEPT_MAX;
        loop {
            if let Some(taken) = self.try_take(Blocking::Yes)? {
                return Ok(taken);
            }
            if Instant::now() >= deadline {
                return Err(Error::ClientGone);
            }
            let arrivals = self.listener.arrivals(self.socket);
            let socket = self.listener.socket(self.socket);
            arrivals.wait(self.flow_id, socket, deadline)?;
        }
    }

    /// Takes the connection if it has come, and accepts what is there up to it.
    pub(crate) fn try_take(&mut self, blocking: Blocking) -> Result<Option<Arrived>, Error> {
        let arrivals = self.listener.arrivals(self.socket);
        loop {
            if let Some(taken) = arrivals.take(self.flow_id) {
                self.is_over = true;
                return taken?.into_mode(blocking).map(Some);
            }
            let arrived = match self.listener.accept_arrived(self.socket, blocking)? {
                Accepted::Connection(arrived) => arrived,
                Accepted::Other => continue,
                Accepted::None => return Ok(None),
            };
            if arrived.flow_id == self.flow_id {
                self.is_over = true;
                arrivals.forget(self.flow_id);
                return Ok(Some(arrived));
            }
            if let Some(other) = arrivals.hand_over(arrived) {
                self.listener.keep(other);
            }
        }
    }

    /// As [`try_take`](Self::try_take) without accepting; otherwise the task is woken later.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_take(&mut self, context: &Context<'_>) -> Poll<Result<Arrived, Error>> {
        let arrivals = self.listener.arrivals(self.socket);
        let taken = arrivals.poll_take(self.flow_id, context);
        self.is_over |= taken.is_ready();
        taken
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if !self.is_over {
            self.listener.arrivals(self.socket).forget(self.flow_id);
            self.notices.with_table(|table| table.abandon(self.flow_id));
        }
    }
}
