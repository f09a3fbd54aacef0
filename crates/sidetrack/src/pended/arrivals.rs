//! The connections that a listening socket has accepted for threads and tasks that wait for them.
//!
//! A completed flow's connection comes through the accept queue, like every other one. So a thread
//! that waits for its own connection may accept that of another thread, and leaves it here.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// Wakes the thread that polls the socket. Created when a thread does so for the first time.
    wake_poller: OnceLock<File>,
}

#[derive(Debug, Default)]
struct State {
    /// What became of the flows that are waited for.
    awaited: HashMap<u64, Awaited>,
    /// The flow whose thread polls the socket. The other threads wait for `changed`.
    poller: Option<u64>,
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
        let state = self.lock();
        if state.awaited.contains_key(&flow_id) {
            self.end(state, flow_id, Awaited::Gone);
        }
    }

    /// Hands a connection over to the thread or task that waits for its flow. Otherwise it is
    /// returned.
    pub(crate) fn hand_over(&self, arrived: Arrived) -> Option<Arrived> {
        let (state, flow_id) = (self.lock(), arrived.flow_id);
        if !state.awaited.contains_key(&flow_id) {
            return Some(arrived);
        }
        self.end(state, flow_id, Awaited::Arrived(arrived));
        None
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

    /// Waits until something may have changed for the flow: one thread polls the listening socket, and
    /// the others wait until it returns from that. Returns at once if the flow's connection has
    /// arrived.
    pub(crate) fn wait(
        &self,
        flow_id: u64,
        socket: BorrowedFd<'_>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut state = self.lock();
        if !matches!(state.awaited.get(&flow_id), Some(Awaited::Waiting(_))) {
            return Ok(());
        }
        if state.poller.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            drop(self.changed.wait_timeout(state, left));
            return Ok(());
        }
        let mut wake_poller = self.wake_poller()?;
        state.poller = Some(flow_id);
        drop(state);
        let polled = sys::wait_readable_until(&[socket, wake_poller.as_fd()], Some(deadline));
        self.lock().poller = None;
        let _ = wake_poller.read(&mut [0; 8]); // fails if nobody has woken this thread
        self.changed.notify_all();
        polled
            .map(drop)
            .map_err(Error::system("wait for the client's connection"))
    }

    /// Ends the wait for a flow, and wakes its thread or task.
    fn end(&self, mut state: MutexGuard<'_, State>, flow_id: u64, end: Awaited) {
        let is_poller = state.poller == Some(flow_id);
        let before = state.awaited.insert(flow_id, end);
        drop(state);
        match before {
            Some(Awaited::Waiting(Some(waker))) => waker.wake(),
            _ if is_poller => {
                if let Some(mut wake_poller) = self.wake_poller.get() {
                    // It fails only after 2⁶⁴ writes that nobody has read.
                    let _ = wake_poller.write(&1_u64.to_ne_bytes());
                }
            }
            _ => self.changed.notify_all(),
        }
    }

    fn wake_poller(&self) -> Result<&File, Error> {
        if let Some(created) = self.wake_poller.get() {
            return Ok(created);
        }
        let created = sys::event_counter().map_err(Error::system("create an event counter"))?;
        Ok(self.wake_poller.get_or_init(|| created.into()))
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn arrived(flow_id: u64) -> Arrived {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Arrived {
            stream: TcpStream::connect(listener.local_addr().unwrap()).unwrap(),
            blocking: Blocking::Yes,
            flow_id,
            flow: None,
        }
    }

    #[test]
    fn connections_go_to_who_expects_them() {
        let arrivals = Arrivals::default();
        arrivals.expect(1);
        assert!(arrivals.take(1).is_none());
        assert!(arrivals.hand_over(arrived(2)).is_some(), "nobody waits");
        assert!(arrivals.hand_over(arrived(1)).is_none());
        assert_eq!(arrivals.take(1).unwrap().unwrap().flow_id, 1);
        arrivals.expect(3);
        arrivals.gone(3);
        assert!(matches!(arrivals.take(3), Some(Err(Error::ClientGone))));
        arrivals.expect(4);
        assert!(arrivals.forget(4).is_none());
        assert!(arrivals.hand_over(arrived(4)).is_some());
    }

    /// The thread that polls the socket is woken too if another one accepts its connection.
    #[test]
    fn every_waiting_thread_is_woken_long_before_its_deadline() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let arrivals = Arrivals::default();
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(60);
        thread::scope(|scope| {
            for flow_id in 1..=3 {
                arrivals.expect(flow_id);
                let (arrivals, silent) = (&arrivals, silent.as_fd());
                scope.spawn(move || {
                    while arrivals.take(flow_id).is_none() {
                        arrivals.wait(flow_id, silent, deadline).unwrap();
                    }
                });
            }
            while arrivals.lock().poller.is_none() {
                thread::yield_now();
            }
            for flow_id in 1..=3 {
                assert!(arrivals.hand_over(arrived(flow_id)).is_none());
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn others_are_counted_for_poll() {
        let others = Others::new().unwrap();
        let soon = || Some(Instant::now());
        let is_readable = || sys::wait_readable_until(&[others.count()], soon()).unwrap();
        assert!(others.take().is_none() && is_readable().is_none());
        others.keep(arrived(1));
        others.keep(arrived(2));
        assert_eq!(others.take().unwrap().flow_id, 1);
        assert!(is_readable().is_some());
        assert_eq!(others.take().unwrap().flow_id, 2);
        assert!(is_readable().is_none());
    }
}
