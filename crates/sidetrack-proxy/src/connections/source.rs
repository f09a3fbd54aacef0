//! The sources of connections for an event loop.

use std::iter;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;

use sidetrack::{Error, Flow};

use crate::upstream::Upstream;

/// Accepts connections for a [`ConnectionLoop`](super::ConnectionLoop).
pub(crate) trait ConnectionSource {
    /// What the loop needs to connect to the origin of each connection.
    type Upstream: Upstream;
    /// The listening sockets, which are non-blocking: readable when a connection waits to be
    /// accepted.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>>;
    /// Accepts one connection from the socket with this index in [`sockets`](Self::sockets). The
    /// connection is non-blocking and [prepared](crate::connection::prepare). Returns `None` if
    /// none waits.
    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Self::Upstream)>, Error>;
}

impl ConnectionSource for sidetrack::Listener {
    type Upstream = Flow;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets()
    }

    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Flow)>, Error> {
        let accepted = self.try_accept(socket)?;
        Ok(accepted.map(|connection| connection.into_parts()))
    }
}

/// A source that never has a connection, for a loop that serves one connection which it was given.
pub(super) struct NoSource<U>(pub(super) PhantomData<U>);

impl<U: Upstream> ConnectionSource for NoSource<U> {
    type Upstream = U;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::empty()
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, U)>, Error> {
        Ok(None)
    }
}
