//! The SDK for async programs on a tokio runtime (feature `tokio`).
//!
//! The types have the names and the behaviour of those at the crate root, and wait without blocking
//! the thread. [`Flow::connect_async`] connects to the original destination.
//!
//! # Example
//!
//! ```no_run
//! use sidetrack::Service;
//! use sidetrack::tokio::Listener;
//!
//! # async fn example() -> Result<(), sidetrack::Error> {
//! let listener = Listener::bind(&Service::from_env()?)?;
//! loop {
//!     let (mut client, flow) = listener.accept().await?;
//!     tokio::spawn(async move {
//!         let mut origin = flow.connect_async().await?;
//!         let _ = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
//!         Ok::<(), sidetrack::Error>(())
//!     });
//! }
//! # }
//! ```

mod datagram;
mod pended;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ::tokio::io::Interest;
use ::tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use ::tokio::net::TcpStream;
use ::tokio::select;

use self::pended::registered;
use crate::listener::Accepted;
use crate::outgoing::Blocking;
use crate::{Connection, Error, Flow, Notice, Pending, Service, WhyAccepted};

pub use datagram::DatagramListener;
pub(crate) use sockets::AsyncSockets;

/// The TCP listeners of a service, in a tokio runtime. See [`crate::Listener`].
#[derive(Debug)]
pub struct Listener {
    inner: crate::Listener,
}

impl Listener {
    /// Opens the listeners as [`crate::Listener::bind`] does, with the same errors.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let inner = crate::Listener::bind(service)?;
        registered(&inner.sockets)?;
        Ok(Self { inner })
    }

    /// Waits for the next redirected connection, as [`crate::Listener::accept`] does, with the same
    /// errors.
    ///
    /// Cancel safe: if the future is dropped, no accepted connection is lost. On a listener that
    /// pends, a connect that it is completing is lost.
    pub async fn accept(&self) -> Result<(TcpStream, Flow), Error> {
        loop {
            if self.inner.is_pended()
                && let Some(connection) = self.accept_pended().await?
            {
                return into_tokio(connection);
            }
            if let Some(connection) = self.accept_ready().await? {
                return into_tokio(connection);
            }
        }
    }

    /// Completes the next held connect, if there is one.
    async fn accept_pended(&self) -> Result<Option<Connection>, Error> {
        loop {
            if let Some(connection) = self.inner.sockets.take_other(Blocking::No)? {
                return Ok(Some(connection));
            }
            match self.inner.try_pended()? {
                Some(Notice::Pending(pending)) => match pending.accept_connection_async().await {
                    Err(Error::ClientGone) => {}
                    accepted => return accepted.map(Some),
                },
                Some(Notice::Gone(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits until a descriptor is readable, and accepts a connection if it is a listening socket.
    async fn accept_ready(&self) -> Result<Option<Connection>, Error> {
        let registered = registered(&self.inner.sockets)?;
        let (v4, v6) = (&registered.listeners[0], registered.listeners.get(1));
        let pended = registered.pended.as_ref();
        let (index, ready) = select! {
            ready = v4.readable() => (Some(0), ready),
            ready = readable(v6) => (Some(1), ready),
            ready = readable(pended.map(|[ring, _]| ring)) => (None, ready),
            ready = readable(pended.map(|[_, others]| others)) => (None, ready),
        };
        let mut ready = ready.map_err(Error::system("wait for a connection"))?;
        match index {
            Some(index) => match self.inner.sockets.try_accept(index)? {
                Accepted::Connection(connection) => return Ok(Some(connection)),
                Accepted::Other => {}
                Accepted::None => ready.clear_ready(),
            },
            None => match self.accept_pended().await? {
                Some(connection) => return Ok(Some(connection)),
                None => ready.clear_ready(),
            },
        }
        Ok(None)
    }

    /// Waits for the next held connect, as [`crate::Listener::pended`] does, with the same errors.
    ///
    /// Cancel safe.
    pub async fn pended(&self) -> Result<Pending, Error> {
        let registered = registered(&self.inner.sockets)?;
        let [ring, _] = registered.pended.as_ref().ok_or(Error::NotPended)?;
        loop {
            let ready = ring.readable().await;
            let mut ready = ready.map_err(Error::system("wait for a held connect"))?;
            match self.inner.try_pended()? {
                Some(Notice::Pending(pending)) => return Ok(pending),
                Some(Notice::Gone(_)) => {}
                None => ready.clear_ready(),
            }
        }
    }

    /// Whether connects are held until the proxy completes or refuses them.
    pub fn is_pended(&self) -> bool {
        self.inner.is_pended()
    }

    /// Why the listener accepts first although its service asked for pended connects; see
    /// [`crate::Listener::why_accepted`].
    pub fn why_accepted(&self) -> Option<WhyAccepted> {
        self.inner.why_accepted()
    }

    /// The listening sockets, IPv4 first. Use them to set socket options that accepted sockets
    /// inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.inner.sockets()
    }

    /// Number of connections that were closed because they were not redirected to this service; see
    /// [`crate::Listener::refused`].
    pub fn refused(&self) -> u64 {
        self.inner.refused()
    }
}

/// Waits until a descriptor is readable; never if there is none.
async fn readable(
    descriptor: Option<&AsyncFd<OwnedFd>>,
) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match descriptor {
        Some(descriptor) => descriptor.readable().await,
        None => std::future::pending().await,
    }
}

fn into_tokio(connection: Connection) -> Result<(TcpStream, Flow), Error> {
    let (stream, flow) = connection.into_parts();
    let stream = TcpStream::from_std(stream).map_err(Error::system("hand the socket to tokio"))?;
    Ok((stream, flow))
}

impl Flow {
    /// Connects to the original destination with the records set, as [`Flow::connect`] does, with
    /// the same errors. Must be called within a tokio runtime.
    ///
    /// Cancel safe: if the future is dropped, the socket is closed.
    pub async fn connect_async(&self) -> Result<TcpStream, Error> {
        self.connect_to_async(self.original_destination()).await
    }

    /// Connects to another destination instead, as [`Flow::connect_to`] does. See
    /// [`connect_async`](Self::connect_async).
    pub async fn connect_to_async(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let stream = self.connect_to_nonblocking(destination)?;
        connected(stream)
            .await
            .map_err(Error::system("connect to the destination"))
    }
}

/// Waits until a non-blocking connect has ended. Gets the socket's error only if the kernel reports
/// that there is one, which saves a system call.
async fn connected(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}
