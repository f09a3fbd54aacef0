//! The same for async programs.

mod datagram;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ::tokio::io::Interest;
use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::select;

use crate::{Error, Flow, Service};

pub use datagram::DatagramListener;

/// A service's listeners in a tokio runtime; see [`crate::Listener`].
#[derive(Debug)]
pub struct Listener {
    v4: TcpListener,
    v6: Option<TcpListener>,
    inner: crate::Listener,
}

impl Listener {
    /// As [`crate::Listener::bind`]; must be called within a runtime.
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

    /// As [`crate::Listener::accept`].
    ///
    /// Cancel safe: a connection is accepted by the call that returns it, or stays in the queue.
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
            if let Some(flow) = self.inner.ask(&stream)? {
                return Ok((stream, flow));
            }
        }
    }

    /// The sockets, for options that accepted ones are to inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
    }

    /// As [`crate::Listener::refused`].
    pub fn refused(&self) -> u64 {
        self.inner.refused()
    }
}

impl Flow {
    /// As [`Flow::connect`], without blocking.
    ///
    /// Cancel safe: dropping it closes the half-made connection.
    pub async fn connect_async(&self) -> Result<TcpStream, Error> {
        self.connect_to_async(self.original_destination()).await
    }

    /// As [`Flow::connect_to`], without blocking.
    pub async fn connect_to_async(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let stream = self.connect_to_nonblocking(destination)?;
        connected(stream)
            .await
            .map_err(Error::system("connect to the destination"))
    }
}

/// Asks for an error only where the kernel says that there is one.
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
