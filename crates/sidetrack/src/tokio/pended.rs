//! Pended connects for async programs.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::net::TcpStream;
use ::tokio::select;
use ::tokio::time::{Instant, sleep_until, timeout_at};

use super::{AsyncSockets, connected};
use crate::listener::Sockets;
use crate::outgoing::Blocking;
use crate::pended::{ACCEPT_MAX, Arrived, Expected};
use crate::{Connection, Error, Pending};

impl Pending {
    /// Connects to the original destination with the records set, as [`connect`](Self::connect)
    /// does, with the same errors. Must be called within a tokio runtime.
    ///
    /// Cancel safe: if the future is dropped, the socket is closed.
    pub async fn connect_async(&self) -> Result<TcpStream, Error> {
        connected(self.connect_nonblocking()?)
            .await
            .map_err(Error::system("connect to the destination"))
    }

    /// Lets the client connect, as [`complete`](Self::complete) does, with the same errors. Must be
    /// called within a tokio runtime with timers.
    ///
    /// Not cancel safe: if the future is dropped, the client's connection is closed.
    pub async fn complete_async(self, origin: &TcpStream) -> Result<TcpStream, Error> {
        let local = self.local_end(origin);
        into_tokio(self.complete_as_async(local).await?)
    }

    /// Lets the client connect before there is an outgoing connection, as [`accept`](Self::accept)
    /// does. Otherwise as [`complete_async`](Self::complete_async).
    pub async fn accept_async(self) -> Result<TcpStream, Error> {
        into_tokio(self.complete_as_async(None).await?)
    }

    /// As [`accept_async`](Self::accept_async), with the flow.
    pub(super) async fn accept_connection_async(self) -> Result<Connection, Error> {
        let sockets = self.sockets()?;
        sockets.connection(self.complete_as_async(None).await?)
    }

    async fn complete_as_async(mut self, local: Option<SocketAddr>) -> Result<Arrived, Error> {
        let sockets = self.sockets()?;
        let expected = self.expect(&sockets);
        self.open(&sockets, local)?;
        let deadline = Instant::now() + ACCEPT_MAX;
        match timeout_at(deadline, arrive(expected)).await {
            Ok(arrived) => arrived,
            Err(_) => Err(Error::ClientGone),
        }
    }

    /// Waits until the client has closed its socket, or its time-out is over; see
    /// [`is_gone`](Self::is_gone). Must be called within a tokio runtime with timers.
    ///
    /// Cancel safe.
    pub async fn gone(&self) {
        // A notice can be lost, if the ring buffer is full.
        let deadline = self.deadline() + Duration::from_secs(3);
        select! {
            () = poll_fn(|context| self.poll_gone(context)) => {}
            () = sleep_until(deadline.into()) => {}
        }
    }
}

/// Waits for a completed flow's connection.
async fn arrive(mut expected: Expected) -> Result<Arrived, Error> {
    let sockets = Arc::clone(&expected.listener);
    let listener = &registered(&sockets)?.listeners[expected.socket];
    loop {
        if let Some(arrived) = expected.try_take(Blocking::No)? {
            return Ok(arrived);
        }
        select! {
            biased;
            arrived = poll_fn(|context| expected.poll_take(context)) => {
                return arrived?.into_mode(Blocking::No);
            }
            ready = listener.readable() => {
                let mut ready = ready.map_err(Error::system("wait for the client's connection"))?;
                match expected.try_take(Blocking::No)? {
                    Some(arrived) => return Ok(arrived),
                    None => ready.clear_ready(),
                }
            }
        }
    }
}

/// The descriptors of a listener as registered with the runtime. They are registered by the first
/// call.
pub(super) fn registered(sockets: &Sockets) -> Result<&AsyncSockets, Error> {
    if let Some(registered) = sockets.registered.get() {
        return Ok(registered);
    }
    let pended = sockets.pended.as_ref();
    let descriptors = pended.map(|pended| [pended.notices.ring(), pended.others.count()]);
    let listeners = sockets.listeners().map(AsFd::as_fd);
    let registered = AsyncSockets::new(listeners, descriptors)?;
    Ok(sockets.registered.get_or_init(|| registered))
}

fn into_tokio(arrived: Arrived) -> Result<TcpStream, Error> {
    let stream = arrived.into_mode(Blocking::No)?.stream;
    TcpStream::from_std(stream).map_err(Error::system("hand the client's socket to tokio"))
}
