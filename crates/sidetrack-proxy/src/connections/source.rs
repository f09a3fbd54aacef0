//! Where a loop's connections come from.

use std::iter;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;

use sidetrack::{Error, Flow};

use crate::connection::Upstream;

/// Where a loop's connections come from.
pub(crate) trait Source {
    /// Their way on.
    type Upstream: Upstream;
    /// Non-blocking; told of by epoll when a connection waits.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>>;
    /// One connection, non-blocking and [prepared](crate::connection::prepare); `None` if there is none.
    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Self::Upstream)>, Error>;
}

impl Source for sidetrack::Listener {
    type Upstream = Flow;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets()
    }

    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Flow)>, Error> {
        let accepted = self.try_accept(socket)?;
        Ok(accepted.map(|connection| connection.into_parts()))
    }
}

/// Where no connections come from.
pub(super) struct NoSource<U>(pub(super) PhantomData<U>);

impl<U: Upstream> Source for NoSource<U> {
    type Upstream = U;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::empty()
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, U)>, Error> {
        Ok(None)
    }
}
