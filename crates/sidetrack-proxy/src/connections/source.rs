//! The sources of connections for an event loop.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::{io, iter};

use sidetrack::{Error, Flow};

use crate::upstream::{PendingConnect, Upstream};

/// Accepts connections for a [`ConnectionLoop`](super::ConnectionLoop).
pub(crate) trait ConnectionSource {
    /// What the loop needs to connect to the origin of each connection.
    type Upstream: Upstream;
    /// A client whose connect is held.
    type Pending: PendingConnect<Upstream = Self::Upstream>;
    /// The listening sockets, which are non-blocking: readable when a connection waits to be
    /// accepted.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>>;
    /// Accepts one connection from the socket with this index in [`sockets`](Self::sockets). The
    /// connection is non-blocking and [prepared](crate::connection::prepare). Returns `None` if
    /// none waits.
    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Self::Upstream)>, Error>;
    /// The ring buffer that is readable while there are notices; `None` if no client is held, and
    /// all are accepted first.
    fn notices(&self) -> Option<BorrowedFd<'_>>;
    /// The next notice; `None` if there is none.
    fn next_notice(&self) -> Result<Option<Notice<Self::Pending>>, Error>;
}

/// What the kernel reports of held clients.
pub(crate) enum Notice<P> {
    /// A client's connect is held.
    Pending(P),
    /// The client of the flow with this id is gone.
    Gone(u64),
}

impl ConnectionSource for sidetrack::Listener {
    type Upstream = Flow;
    type Pending = sidetrack::Pending;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets()
    }

    fn accept(&self, socket: usize) -> Result<Option<(TcpStream, Flow)>, Error> {
        let accepted = self.try_accept(socket)?;
        Ok(accepted.map(|connection| connection.into_parts()))
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        self.pended_fd()
    }

    fn next_notice(&self) -> Result<Option<Notice<sidetrack::Pending>>, Error> {
        let notice = self.try_pended()?;
        Ok(notice.map(|notice| match notice {
            sidetrack::Notice::Pending(pending) => Notice::Pending(pending),
            sidetrack::Notice::Gone(flow_id) => Notice::Gone(flow_id),
        }))
    }
}

/// A source that never has a connection, for a loop that serves one connection which it was given.
pub(super) struct NoSource<U>(pub(super) PhantomData<U>);

impl<U: Upstream> ConnectionSource for NoSource<U> {
    type Upstream = U;
    type Pending = NoPending<U>;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::empty()
    }

    fn accept(&self, _: usize) -> Result<Option<(TcpStream, U)>, Error> {
        Ok(None)
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_notice(&self) -> Result<Option<Notice<NoPending<U>>>, Error> {
        Ok(None)
    }
}

/// The held client of a source that holds none.
pub(super) struct NoPending<U>(Infallible, PhantomData<U>);

impl<U: Upstream> PendingConnect for NoPending<U> {
    type Upstream = U;

    fn flow_id(&self) -> u64 {
        match self.0 {}
    }

    fn destination(&self) -> SocketAddr {
        match self.0 {}
    }

    fn upstream(&self) -> Result<U, Error> {
        match self.0 {}
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        match self.0 {}
    }

    fn check_route(&self) -> Result<(), Error> {
        match self.0 {}
    }

    fn listening_socket(&self) -> usize {
        match self.0 {}
    }

    fn complete(self) -> Result<(), Error> {
        match self.0 {}
    }

    fn refuse(self, _: &io::Error) {
        match self.0 {}
    }
}
