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

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ::tokio::io::Interest;
use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::select;

use crate::{Error, Flow, Service};

pub use datagram::DatagramListener;

/// The TCP listeners of a service, in a tokio runtime. See [`crate::Listener`].
#[derive(Debug)]
pub struct Listener {
    v4: TcpListener,
    v6: Option<TcpListener>,
    inner: crate::Listener,
}

impl Listener {
    /// Opens the listeners as [`crate::Listener::bind`] does, with the same errors.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let mut inner = crate::Listener::bind(service)?;
        let mut sockets = inner.sockets.drain(..).map(|socket| {
            TcpListener::from_std(socket).map_err(Error::system("hand the listener to tokio"))
        });
        let v4 = sockets.next().expect("bind always makes the IPv4 one")?;
        let v6 = sockets.next().transpose()?;
        drop(sockets);
        Ok(Self { v4, v6, inner })
    }

    /// Waits for the next redirected connection, as [`crate::Listener::accept`] does, with the same
    /// errors.
    ///
    /// Cancel safe: if the future is dropped, no accepted connection is lost.
    pub async fn accept(&self) -> Result<(TcpStream, Flow), Error> {
        loop {
            let (stream, _) = match &self.v6 {
                None => self.v4.accept().await,
                Some(v6) => select! {
                    accepted = self.v4.accept() => accepted,
                    accepted = v6.accept() => accepted,
                },
            }
            .map_err(Error::system("accept a connection"))?;
            if let Some(flow) = self.inner.query_accepted(&stream)? {
                return Ok((stream, flow));
            }
        }
    }

    /// The listening sockets, IPv4 first. Use them to set socket options that accepted sockets
    /// inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
    }

    /// Number of connections that were closed because they were not redirected to this service; see
    /// [`crate::Listener::refused`].
    pub fn refused(&self) -> u64 {
        self.inner.refused()
    }
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
