//! The connections that a listening socket has accepted for threads and tasks that wait for them.
//!
//! A completed flow's connection comes through the accept queue, like every other one. So a thread
//! that waits for its own connection may accept that of another thread, and leaves it here.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::Instant;

use crate::outgoing::Blocking;
use crate::{Error, Flow, sys};

/// A connection that was accepted from a listener that pends.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: TcpStream,
    pub(crate) blocking: Blocking,
    pub(crate) flow_id: u64,
    /// The flow, if it has been queried before.
    pub(crate) flow: Option<Flow>,
}

impl Arrived {
    /// Makes the stream blocking or non-blocking.
    pub(crate) fn into_mode(mut self, blocking: Blocking) -> Result<Self, Error> {
        if self.blocking != blocking {
            self.stream
                .set_nonblocking(blocking == Blocking::No)
                .map_err(Error::system("change the mode of the client's socket"))?;
            self.blocking = blocking;
        }
        Ok(self)
    }
}

/// Connections that were accepted by a thread that waits for another one, and that nobody waits
/// for in particular.
#[derive(Debug)]
pub(crate) struct Others {
    queue: Mutex<VecDeque<Arrived>>,
    /// Readable while there are some.
    count: File,
}

impl Others {
    pub(crate) fn new() -> Result<Self, Error> {
        let count = sys::event_counter().map_err(Error::system("create an event counter"))?;
        Ok(Self {
            queue: Mutex::default(),
            count: count.into(),
        })
    }

    pub(crate) fn keep(&self, arrived: Arrived) {
        self.lock().push_back(arrived);
        // It fails only after 2⁶⁴ writes that nobody has read.
        let _ = (&self.count).write(&1_u64.to_ne_bytes());
    }

    pub(crate) fn take(&self) -> Option<Arrived> {
        let taken = self.lock().pop_front()?;
        let _ = (&self.count).read(&mut [0; 8]);
        Some(taken)
    }

    /// Readable while there are some.
    pub(crate) fn count(&self) -> BorrowedFd<'_> {
        self.count.as_fd()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arrived>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The arrivals of one listening socket.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What became of the flows that are waited for.
    awaited: HashMap<u64, Awaited>,
    /// Whether a waiting thread polls the socket. The others wait for `changed`.
    is_polled: bool,
}

#[derive(Debug)]
enum Awaited {
    Waiting(Option<Waker>),
    Arrived(Arrived),
    Gone,
}

impl Arrivals {
    /// From now on, the connection of this flow is kept for [`take`](Self::take).
    pub(crate) fn expect(&self, flow_id: u64) {
        self.lock().awaited.insert(flow_id, Awaited::Waiting(None));
    }

    /// The flow is not waited for any more. Returns its connection if it has arrived.
    pub(crate) fn forget(&self, flow_id: u64) -> Option<Arrived> {
        match self.lock().awaited.remove(&flow_id) {
            Some(Awaited::Arrived(arrived)) => Some(arrived),
            _ => None,
        }
    }

    /// The client of a completed flow is gone.
    pub(crate) fn gone(&self, flow_id: u64) {
        let mut state = self.lock();
        if let Some(awaited) = state.awaited.get_mut(&flow_id) {
            let waker = awaited.end(Awaited::Gone);
            drop(state);
            self.wake(waker);
        }
    }

    /// Hands a connection over to the thread or task that waits for its flow. Otherwise it is
    /// returned.
    pub(crate) fn hand_over(&self, arrived: Arrived) -> Option<Arrived> {
        let mut state = self.lock();
        match state.awaited.get_mut(&arrived.flow_id) {
            Some(awaited) => {
                let waker = awaited.end(Awaited::Arrived(arrived));
                drop(state);
                self.wake(waker);
                None
            }
            None => Some(arrived),
        }
    }

    /// Takes the connection of an expected flow, if it has arrived.
    pub(crate) fn take(&self, flow_id: u64) -> Option<Result<Arrived, Error>> {
        self.lock().take(flow_id)
    }

    /// As [`take`](Self::take), for a task.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_take(
        &self,
        flow_id: u64,
        context: &Context<'_>,
    ) -> Poll<Result<Arrived, Error>> {
        let mut state = self.lock();
        if let Some(taken) = state.take(flow_id) {
            return Poll::Ready(taken);
        }
        if let Some(Awaited::Waiting(waker)) = state.awaited.get_mut(&flow_id) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until something may have changed for the flow: one thread by `poll`, which waits for the
    /// listening socket up to a moment, and all others until that thread returns from it. Returns at
    /// once if the flow's connection has arrived.
    pub(crate) fn wait(
        &self,
        flow_id: u64,
        deadline: Instant,
        poll: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut state = self.lock();
        if !matches!(state.awaited.get(&flow_id), Some(Awaited::Waiting(_))) {
            return Ok(());
        }
        if state.is_polled {
            let left = deadline.saturating_duration_since(Instant::now());
            drop(self.changed.wait_timeout(state, left));
            return Ok(());
        }
        state.is_polled = true;
        drop(state);
        let polled = poll();
        self.lock().is_polled = false;
        self.changed.notify_all();
        polled
    }

    /// Wakes the thread or task that waits for a flow.
    fn wake(&self, waker: Option<Waker>) {
        match waker {
            Some(waker) => waker.wake(),
            None => self.changed.notify_all(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, flow_id: u64) -> Option<Result<Arrived, Error>> {
        if let Some(Awaited::Waiting(_)) = self.awaited.get(&flow_id) {
            return None;
        }
        match self.awaited.remove(&flow_id) {
            Some(Awaited::Arrived(arrived)) => Some(Ok(arrived)),
            _ => Some(Err(Error::ClientGone)),
        }
    }
}

impl Awaited {
    /// Returns the waker of the task that waits; `None` if it is a thread.
    fn end(&mut self, end: Self) -> Option<Waker> {
        match std::mem::replace(self, end) {
            Self::Waiting(waker) => waker,
            Self::Arrived(_) | Self::Gone => None,
        }
    }
}
