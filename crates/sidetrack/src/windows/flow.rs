//! A redirected connection, as the control codes and the redirect context describe it.

use std::net::{SocketAddr, TcpStream};
use std::os::windows::io::AsSocket;
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::context::{self, ParsedContext};
use super::query::{self, WSAENOTCONN};
use super::sys;
use crate::Error;

/// A redirected connection: its original destination, its program, its context and its records.
#[derive(Clone, Debug)]
pub struct Flow {
    parsed: ParsedContext,
    context: Option<Box<[u8]>>,
    records: Records,
    /// Peer address of the accepted socket.
    client: SocketAddr,
    /// Local address of the accepted socket.
    own: SocketAddr,
}

/// The redirect records of a flow: an opaque blob, to be copied byte for byte (docs/wfp.md, 1.7).
#[derive(Clone, PartialEq, Eq)]
pub struct Records(Box<[u8]>);

/// The redirect state (docs/wfp.md, 3.2.1 to 3.2.4). An accepted socket always has the one state
/// that this enum has; the type exists so that code for Linux builds on Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This service was the last one to redirect the connection.
    RedirectedBySelf,
}

/// The program that opened the connection, as far as the context describes it.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Path of the executable; empty if the context does not have it.
    pub executable: &'a Path,
    /// Process id; 0 if the context does not have it.
    pub pid: u32,
}

/// Queries the flow of an accepted socket (SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS and …_CONTEXT;
/// docs/wfp.md, 1.3.1).
///
/// # Errors
///
/// - [`Error::NotRedirected`] if no redirection is recorded for the connection.
/// - [`Error::NoContext`] if there are records and no context.
/// - [`Error::UnknownContext`] if the context has an unknown layout; use [`Flow::query_with`].
/// - [`Error::NotConnected`] if the socket is not connected.
/// - [`Error::NoEngine`] if the system does not know the control codes, as under Wine.
/// - [`Error::NotTcp`] if the protocol does not support them.
/// - [`Error::System`] for any other error.
pub fn query(socket: impl AsSocket) -> Result<Flow, Error> {
    Flow::query_with(socket, context::parse)
}

/// Sets the redirect records on a new, unconnected socket, which links the socket to their flow
/// (SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS; docs/wfp.md, 1.7). Needs administrator rights.
///
/// # Errors
///
/// A failure is final. Do not connect the socket: the connection could be redirected to this proxy
/// again and loop.
///
/// [`Error::BadRecords`], [`Error::NoEngine`], [`Error::NotTcp`]; or [`Error::System`], with
/// WSAEACCES if the process has no administrator rights.
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
    /// Queries the flow as [`query`] does, with a function that parses the driver's own layout of
    /// the context.
    ///
    /// The function must check the magic number, the version and the length of the context. If it
    /// returns `None`, the error is [`Error::UnknownContext`].
    pub fn query_with(
        socket: impl AsSocket,
        parse: impl FnOnce(&[u8]) -> Option<ParsedContext>,
    ) -> Result<Self, Error> {
        let reference = SockRef::from(&socket);
        let (client, own) = match (reference.peer_addr(), reference.local_addr()) {
            (Ok(client), Ok(own)) => (client.as_socket(), own.as_socket()),
            (Err(error), _) if error.raw_os_error() == Some(WSAENOTCONN) => {
                return Err(Error::NotConnected);
            }
            (Err(source), _) | (_, Err(source)) => {
                return Err(Error::System {
                    what: "get the socket's addresses",
                    source,
                });
            }
        };
        let (client, own) = client.zip(own).ok_or(Error::NotTcp)?;
        let records =
            query::query_until_it_fits(|buffer| sys::query(&socket, sys::QUERY_RECORDS, buffer))?;
        let context = match query::query_until_it_fits(|buffer| {
            sys::query(&socket, sys::QUERY_CONTEXT, buffer)
        }) {
            Err(Error::NotRedirected) => return Err(Error::NoContext), // the records exist
            context => context?,
        };
        let parsed = parse(&context).ok_or(Error::UnknownContext(context.len()))?;
        Ok(Self {
            parsed,
            context: Some(context),
            records: Records(records),
            client,
            own,
        })
    }

    /// The address that the program asked for, from the context.
    pub fn original_destination(&self) -> SocketAddr {
        self.parsed.destination
    }

    /// The address of the client's socket: the peer address of the accepted socket.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The address to which the driver redirected the connection: the local address of the accepted
    /// socket.
    pub fn own_address(&self) -> SocketAddr {
        self.own
    }

    /// The program that opened the connection.
    pub fn program(&self) -> Program<'_> {
        Program {
            executable: Path::new(&self.parsed.executable),
            pid: self.parsed.pid,
        }
    }

    /// The redirect context, in the driver's layout.
    pub fn context(&self) -> Option<&[u8]> {
        self.context.as_deref()
    }

    /// The redirect records, to be set on the outgoing socket. [`connect`](Self::connect) and
    /// [`outgoing`](Self::outgoing) do that by themselves.
    pub fn records(&self) -> Records {
        self.records.clone()
    }

    /// The redirect state; see [`State`].
    pub fn state(&self) -> State {
        State::RedirectedBySelf
    }

    /// Connects to the original destination with the records set. Blocks until connected.
    ///
    /// # Errors
    ///
    /// [`Error::SelfConnect`] if the destination is this proxy's own listener; the errors of
    /// [`set_records`]; [`Error::System`] if creating or connecting the socket failed.
    pub fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_to(self.original_destination())
    }

    /// Connects to another destination instead, with the records set. Errors are those of
    /// [`connect`](Self::connect).
    pub fn connect_to(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let socket = self.outgoing(destination)?;
        socket
            .connect(&destination.into())
            .map_err(Error::system("connect to the destination"))?;
        Ok(socket.into())
    }

    /// Creates a TCP socket for `destination` with the records set, not yet connected. Errors are
    /// those of [`connect`](Self::connect), without those of connecting.
    pub fn outgoing(&self, destination: SocketAddr) -> Result<Socket, Error> {
        if self.is_own_listener(destination) {
            return Err(Error::SelfConnect(destination));
        }
        let domain = Domain::for_address(destination);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
            .map_err(Error::system("create the outgoing socket"))?;
        set_records(&socket, &self.records)?;
        Ok(socket)
    }

    /// Whether `destination` is the listener that accepted this flow.
    fn is_own_listener(&self, destination: SocketAddr) -> bool {
        destination.port() == self.own.port()
            && (destination.ip() == self.own.ip() || destination.ip().is_unspecified())
    }
}

impl Records {
    /// The bytes of the blob.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The records with these bytes, for example received from another process of the proxy.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({} bytes)", self.0.len()) // the content is opaque
    }
}
