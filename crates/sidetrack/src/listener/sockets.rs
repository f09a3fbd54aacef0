//! The listening sockets of a service, shared by the listener and the connects that it holds.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connection::Connection;
use crate::flow::query_flow_id;
use crate::outgoing::Blocking;
use crate::pended::{Arrivals, Arrived, Notices, OnAccept, Others};
#[cfg(feature = "tokio")]
use crate::tokio::AsyncSockets;
use crate::{Error, query, sys};

/// The listening sockets of a service: IPv4 first, then IPv6 where the host has it. Non-blocking.
#[derive(Debug)]
pub(crate) struct Sockets {
    sockets: Vec<ListeningSocket>,
    /// Number of accepted connections that were not redirected to this service.
    refused: AtomicU64,
    pub(crate) pended: Option<PendedListener>,
    /// The same descriptors, registered with a tokio runtime when they are first needed there.
    #[cfg(feature = "tokio")]
    pub(crate) registered: std::sync::OnceLock<AsyncSockets>,
}

#[derive(Debug)]
struct ListeningSocket {
    socket: TcpListener,
    arrivals: Arrivals,
}

/// What an attempt to accept has found.
pub(crate) enum Accepted<T> {
    Connection(T),
    /// A connection for somebody else: it was closed or handed over.
    Other,
    /// No connection was waiting.
    None,
}

/// What a listener that pends needs in addition.
#[derive(Debug)]
pub(crate) struct PendedListener {
    pub(crate) notices: Arc<Notices>,
    pub(crate) others: Others,
}

impl PendedListener {
    pub(crate) fn new(notices: Arc<Notices>) -> Result<Self, Error> {
        let others = Others::new()?;
        Ok(Self { notices, others })
    }
}

impl Sockets {
    pub(crate) fn new(
        sockets: impl IntoIterator<Item = TcpListener>,
        pended: Option<PendedListener>,
    ) -> Self {
        let with_arrivals = |socket| ListeningSocket {
            socket,
            arrivals: Arrivals::default(),
        };
        Self {
            sockets: sockets.into_iter().map(with_arrivals).collect(),
            refused: AtomicU64::new(0),
            pended,
            #[cfg(feature = "tokio")]
            registered: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.sockets.iter().map(|one| &one.socket)
    }

    pub(crate) fn get(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(index).map(|one| one.socket.as_fd())
    }

    /// The index of the socket to which connections of this family come.
    pub(crate) fn index(&self, is_ipv4: bool) -> usize {
        usize::from(!is_ipv4).min(self.sockets.len() - 1)
    }

    /// The socket with an index of [`index`](Self::index).
    pub(crate) fn socket(&self, index: usize) -> BorrowedFd<'_> {
        self.sockets[index].socket.as_fd()
    }

    /// The arrivals of the socket with an index of [`index`](Self::index).
    pub(crate) fn arrivals(&self, index: usize) -> &Arrivals {
        &self.sockets[index].arrivals
    }

    /// The client of a completed flow is gone.
    pub(crate) fn client_gone(&self, flow_id: u64) {
        for one in &self.sockets {
            one.arrivals.gone(flow_id);
        }
    }

    /// Accepts a connection of a listener that pends. It is closed if it was not redirected to this
    /// service, or if nobody waits for it any more.
    pub(crate) fn accept_arrived(
        &self,
        index: usize,
        blocking: Blocking,
    ) -> Result<Accepted<Arrived>, Error> {
        let Some(stream) = self.accept_stream(index, blocking)? else {
            return Ok(Accepted::None);
        };
        let Some(flow_id) = self.count_refused(query_flow_id(&stream))? else {
            return Ok(Accepted::Other);
        };
        let pended = self.pended.as_ref();
        let flow = match pended.map(|pended| pended.notices.on_accept(flow_id)) {
            Some(OnAccept::Known(flow)) => Some(flow),
            Some(OnAccept::Abandoned) => return Ok(Accepted::Other),
            Some(OnAccept::Query) | None => None,
        };
        Ok(Accepted::Connection(Arrived {
            stream,
            blocking,
            flow_id,
            flow,
        }))
    }

    /// Accepts a connection of a listener that pends. It is handed over if a thread or task waits for
    /// it.
    pub(crate) fn accept_unexpected(
        &self,
        index: usize,
        blocking: Blocking,
    ) -> Result<Accepted<Connection>, Error> {
        Ok(match self.accept_arrived(index, blocking)? {
            Accepted::Connection(arrived) => match self.arrivals(index).hand_over(arrived) {
                Some(arrived) => Accepted::Connection(self.connection(arrived)?),
                None => Accepted::Other,
            },
            Accepted::Other => Accepted::Other,
            Accepted::None => Accepted::None,
        })
    }

    /// Takes a connection that was accepted by a thread that waits for another one.
    pub(crate) fn take_other(&self, blocking: Blocking) -> Result<Option<Connection>, Error> {
        let other = self.pended.as_ref().and_then(|pended| pended.others.take());
        other
            .map(|arrived| self.connection(arrived.into_mode(blocking)?))
            .transpose()
    }

    /// Keeps a connection that was completed without waiting, for [`take_other`](Self::take_other).
    pub(crate) fn keep(&self, arrived: Arrived) {
        if let Some(pended) = &self.pended {
            pended.others.keep(arrived);
        }
    }

    /// Adds the flow to a connection.
    pub(crate) fn connection(&self, arrived: Arrived) -> Result<Connection, Error> {
        let flow = match arrived.flow {
            Some(flow) => flow,
            None => query(&arrived.stream)?,
        };
        Ok(Connection::new(arrived.stream, flow))
    }

    /// Accepts a connection of a listener that does not pend.
    pub(crate) fn accept_redirected(
        &self,
        index: usize,
        blocking: Blocking,
    ) -> Result<Accepted<Connection>, Error> {
        let Some(stream) = self.accept_stream(index, blocking)? else {
            return Ok(Accepted::None);
        };
        Ok(match self.count_refused(query(&stream))? {
            Some(flow) => Accepted::Connection(Connection::new(stream, flow)),
            None => Accepted::Other,
        })
    }

    /// Accepts a connection without blocking. The index must be valid.
    pub(crate) fn try_accept(&self, index: usize) -> Result<Accepted<Connection>, Error> {
        if self.pended.is_none() {
            return self.accept_redirected(index, Blocking::No);
        }
        match self.take_other(Blocking::No)? {
            Some(connection) => Ok(Accepted::Connection(connection)),
            None => self.accept_unexpected(index, Blocking::No),
        }
    }

    fn accept_stream(&self, index: usize, blocking: Blocking) -> Result<Option<TcpStream>, Error> {
        loop {
            match sys::accept(self.socket(index), blocking == Blocking::Yes) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(Error::system("accept a connection")(error)),
            }
        }
    }

    /// Turns the error of a connection that was not redirected to this service into `None`, and
    /// counts it.
    fn count_refused<T>(&self, queried: Result<T, Error>) -> Result<Option<T>, Error> {
        match queried {
            Err(Error::NotRedirected | Error::NotConnected) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            queried => queried.map(Some),
        }
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
