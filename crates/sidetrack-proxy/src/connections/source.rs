//! Where a loop's connections come from.

use std::iter;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;

use sidetrack::{Error, Flow};

use crate::connection::Onward;

/// Where a loop's connections come from.
pub(crate) trait Source {
    /// Their way on.
    type Onward: Onward;
    /// Non-blocking; told of by epoll when a connection waits.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>>;
    /// One connection, non-blocking and [prepared](crate::connection::prepare); `None` if there is none.
    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Self::Onward)>, Error>;
}

impl Source for sidetrack::Listener {
    type Onward = Flow;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets()
    }

    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Flow)>, Error> {
        let accepted = self.try_accept(socket)?;
        Ok(accepted.map(|connection| connection.into_parts()))
    }
}

/// Where no connections come from.
pub(super) struct NoMore<O>(pub(super) PhantomData<O>);

impl<O: Onward> Source for NoMore<O> {
    type Onward = O;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::empty()
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, O)>, Error> {
        Ok(None)
    }
}
