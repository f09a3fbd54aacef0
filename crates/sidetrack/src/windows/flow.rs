//! A redirected connection, as the accepted socket tells of it.

use std::net::{SocketAddr, TcpStream};
use std::os::windows::io::AsSocket;
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::context::{self, Told};
use super::query::{self, WSAENOTCONN};
use super::sys;
use crate::Error;

/// A redirected connection: where it was going, whose it is, and how to go on.
#[derive(Clone, Debug)]
pub struct Flow {
    told: Told,
    context: Option<Box<[u8]>>,
    records: Records,
    client: SocketAddr,
    own: SocketAddr,
}

/// A flow's redirect records: an opaque blob.
#[derive(Clone, PartialEq, Eq)]
pub struct Records(Box<[u8]>);

/// As on Linux. An accepted socket is always one of which this service was the last redirector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This service redirected it, last.
    RedirectedBySelf,
}

/// The program that opened the connection, as far as the context tells.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its file; empty if it is not told.
    pub executable: &'a Path,
    /// Its process; 0 if it is not told.
    pub pid: u32,
}

/// Asks an accepted socket for its flow (SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS and …_CONTEXT).
///
/// Errors: [`Error::NotRedirected`], [`Error::NotConnected`], [`Error::NoEngine`], [`Error::UnknownContext`],
/// [`Error::NoContext`].
pub fn query(socket: impl AsSocket) -> Result<Flow, Error> {
    Flow::query_with(socket, context::read)
}

/// Links a new, unconnected socket to a flow (SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS). Needs an administrator's rights.
///
/// A failure is final: connecting all the same may loop.
pub fn set_records(socket: impl AsSocket, records: &Records) -> Result<(), Error> {
    match sys::set_records(&socket, &records.0) {
        0 => Ok(()),
        query::WSAEOPNOTSUPP => Err(Error::NoEngine),
        query::WSAEINVAL => Err(Error::BadRecords),
        query::WSAENOPROTOOPT => Err(Error::NotTcp),
        error => Err(Error::System {
            what: "set the redirect records",
            source: std::io::Error::from_raw_os_error(error),
        }),
    }
}

impl Flow {
    /// The same as [`query`], with a reader for the driver's own layout of the context. It must check magic, version and
    /// length; `None` is [`Error::UnknownContext`].
    pub fn query_with(
        socket: impl AsSocket,
        read: impl FnOnce(&[u8]) -> Option<Told>,
    ) -> Result<Self, Error> {
        let reference = SockRef::from(&socket);
        let (client, own) = match (reference.peer_addr(), reference.local_addr()) {
            (Ok(client), Ok(own)) => (client.as_socket(), own.as_socket()),
            (Err(error), _) if error.raw_os_error() == Some(WSAENOTCONN) => {
                return Err(Error::NotConnected);
            }
            (Err(source), _) | (_, Err(source)) => {
                return Err(Error::System {
                    what: "ask for the socket's addresses",
                    source,
                });
            }
        };
        let (client, own) = client.zip(own).ok_or(Error::NotTcp)?;
        let records = query::grow(|buffer| sys::query(&socket, sys::QUERY_RECORDS, buffer))?;
        let context = match query::grow(|buffer| sys::query(&socket, sys::QUERY_CONTEXT, buffer)) {
            Err(Error::NotRedirected) => return Err(Error::NoContext), // records, and no context
            context => context?,
        };
        let told = read(&context).ok_or(Error::UnknownContext(context.len()))?;
        Ok(Self {
            told,
            context: Some(context),
            records: Records(records),
            client,
            own,
        })
    }

    /// Where the program wanted to go.
    pub fn original_destination(&self) -> SocketAddr {
        self.told.destination
    }

    /// The client socket's own address.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// This service's own address, to which the driver diverted the connection.
    pub fn own_address(&self) -> SocketAddr {
        self.own
    }

    /// The program at the chain's beginning.
    pub fn program(&self) -> Program<'_> {
        Program {
            executable: Path::new(&self.told.executable),
            pid: self.told.pid,
        }
    }

    /// The redirect context.
    pub fn context(&self) -> Option<&[u8]> {
        self.context.as_deref()
    }

    /// The blob to set on the socket with which the proxy goes on.
    pub fn records(&self) -> Records {
        self.records.clone()
    }

    /// See [`State`].
    pub fn state(&self) -> State {
        State::RedirectedBySelf
    }

    /// Goes on to the original destination, with the records set. Blocks until connected.
    pub fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_to(self.original_destination())
    }

    /// Goes on to another destination instead, with the records set.
    pub fn connect_to(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let socket = self.outgoing(destination)?;
        socket
            .connect(&destination.into())
            .map_err(Error::system("connect to the destination"))?;
        Ok(socket.into())
    }

    /// A new TCP socket for `destination`, with the records set, not yet connected.
    pub fn outgoing(&self, destination: SocketAddr) -> Result<Socket, Error> {
        if self.is_own_listener(destination) {
            return Err(Error::SelfConnect(destination));
        }
        let domain = Domain::for_address(destination);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
            .map_err(Error::system("make the outgoing socket"))?;
        set_records(&socket, &self.records)?;
        Ok(socket)
    }

    fn is_own_listener(&self, destination: SocketAddr) -> bool {
        destination.port() == self.own.port()
            && (destination.ip() == self.own.ip() || destination.ip().is_unspecified())
    }
}

impl Records {
    /// The bytes, to be copied as they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Those of another process of this proxy's.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({} bytes)", self.0.len()) // opaque
    }
}
