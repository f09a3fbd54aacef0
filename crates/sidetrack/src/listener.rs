//! The TCP listeners of a service.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use sidetrack_abi::kernel;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Flow, Service, query, sys};

/// Length of the accept queue. The kernel limits it to the host's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The TCP listeners of a service: one for IPv4 and, where the host has IPv6, one for IPv6.
///
/// [`accept`](Self::accept) blocks. [`sockets`](Self::sockets) and [`try_accept`](Self::try_accept)
/// are for an event loop, and [`crate::tokio::Listener`] is for async programs.
pub struct Listener {
    /// IPv4 first. Non-blocking.
    pub(crate) sockets: Vec<TcpListener>,
    /// Number of accepted connections that were not redirected to this service.
    pub(crate) refused: AtomicU64,
}

/// An accepted connection that was redirected to the service, with its flow.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    flow: Flow,
}

impl Listener {
    /// Opens the listeners of `service` on free ports, and marks them with the option LISTEN.
    ///
    /// The listeners accept no connection from other hosts. The IPv4 listener is bound to the
    /// wildcard address and to the device `lo`, so that it accepts connections to every loopback
    /// address; the IPv6 listener is bound to `::1`. If the host has no IPv6, there is no IPv6
    /// listener.
    ///
    /// # Errors
    ///
    /// - [`Error::NoEngine`] if the process is in a cgroup to which no engine is attached.
    /// - [`Error::BadSecret`] if the engine does not know the service or its secret.
    /// - [`Error::OtherListener`] if the service already listens on another address of the family.
    /// - [`Error::System`] if a system call failed.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let v4 = listen(service, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let v6 = none_without_ipv6(listen(service, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))))?;
        Ok(Self {
            sockets: [v4].into_iter().chain(v6).collect(),
            refused: AtomicU64::new(0),
        })
    }

    /// Waits for the next redirected connection, and returns it with its flow.
    ///
    /// A connection that was not redirected to this service is closed and counted in
    /// [`refused`](Self::refused); the call then waits for another one.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if `poll` or `accept` failed; most causes are temporary, for example
    /// EMFILE. Otherwise the errors of [`query`], for example [`Error::NoEngine`] after the engine
    /// was removed.
    pub fn accept(&self) -> Result<Connection, Error> {
        loop {
            let ready = sys::wait_readable(&self.sockets)
                .map_err(Error::system("wait for a connection"))?;
            let accepted = self.sockets[ready].accept();
            if let Some(connection) = self.handle_accepted(accepted.map(|(stream, _)| stream))? {
                return Ok(connection);
            }
        }
    }

    /// Accepts a connection without blocking, from the socket at index `socket` of
    /// [`sockets`](Self::sockets). The returned stream is non-blocking.
    ///
    /// Returns `None` if no connection is waiting, or if the accepted one was not redirected to
    /// this service; that one is closed and counted in [`refused`](Self::refused).
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn try_accept(&self, socket: usize) -> Result<Option<Connection>, Error> {
        let Some(listener) = self.sockets.get(socket) else {
            return Ok(None);
        };
        self.handle_accepted(sys::accept_nonblocking(listener.as_fd()))
    }

    /// The listening sockets, IPv4 first. They are non-blocking. Use them to wait for connections,
    /// and to set socket options that accepted sockets inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    fn handle_accepted(
        &self,
        accepted: io::Result<TcpStream>,
    ) -> Result<Option<Connection>, Error> {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Ok(None),
            Err(error) => return Err(Error::system("accept a connection")(error)),
        };
        let flow = self.query_accepted(&stream)?;
        Ok(flow.map(|flow| Connection { stream, flow }))
    }

    /// Queries the flow of an accepted socket. Returns `None`, and counts the connection, if it was
    /// not redirected to this service.
    pub(crate) fn query_accepted(&self, stream: impl AsFd) -> Result<Option<Flow>, Error> {
        match query(stream) {
            Ok(flow) => Ok(Some(flow)),
            Err(Error::NotRedirected | Error::NotConnected) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Number of connections that were closed because they were not redirected to this service.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The addresses of the listeners: IPv4, then IPv6 if the host has it.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }
}

fn listen(service: &Service, address: SocketAddr) -> Result<TcpListener, Error> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
        .map_err(Error::system("create the listener's socket"))?;
    // The IPv6 listener is not bound to `lo`: it would find no route for replies to a client whose
    // socket is bound to an address of another device.
    if address.is_ipv4() {
        socket
            .bind_device(Some(b"lo"))
            .map_err(Error::system("bind the listener to the device lo"))?;
    }
    socket
        .bind(&address.into())
        .map_err(Error::system("bind the listener"))?;
    socket.listen(BACKLOG).map_err(Error::system("listen"))?;
    socket
        .set_nonblocking(true)
        .map_err(Error::system("make the listener non-blocking"))?;
    sys::set_option(socket.as_fd(), kernel::LISTEN, service.option()).map_err(listen_error)?;
    Ok(socket.into())
}

pub(crate) fn listen_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::NoEngine,
        Some(libc::EINVAL) => Error::BadSecret,
        Some(libc::EADDRINUSE) => Error::OtherListener,
        Some(libc::EPROTONOSUPPORT) => Error::NotTcp,
        _ => Error::System {
            what: "mark the listener as the service's",
            source,
        },
    }
}

/// Turns the error of a host without IPv6 into `None`.
pub(crate) fn none_without_ipv6<T>(made: Result<T, Error>) -> Result<Option<T>, Error> {
    match made {
        Err(Error::System { source, .. }) if is_ipv6_unavailable(&source) => Ok(None),
        made => made.map(Some),
    }
}

fn is_ipv6_unavailable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl Connection {
    /// Splits the connection into its stream and its flow.
    pub fn into_parts(self) -> (TcpStream, Flow) {
        (self.stream, self.flow)
    }

    /// The stream to the client.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The flow: the original destination, the program, the context and the records.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("addresses", &self.addresses().unwrap_or_default())
            .field("refused", &self.refused())
            .finish()
    }
}
