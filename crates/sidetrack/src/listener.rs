//! Where a service's redirected connections arrive.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use sidetrack_abi::kernel;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Flow, Service, query, sys};

/// Connections the kernel may keep ready before `accept`; the host's `somaxconn` may say fewer.
const BACKLOG: i32 = 4096;

/// A service's listeners, one for each family.
pub struct Listener {
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) refused: AtomicU64,
}

/// An accepted, redirected connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    flow: Flow,
}

impl Listener {
    /// Listens for `service` at a free port of the loopback device, and tells the kernel so.
    ///
    /// IPv6 is left out where the host has none. The listeners take nothing from other hosts: the IPv4
    /// one takes every address of the loopback range, and is bound to the device `lo`; the IPv6 one is
    /// bound to `::1`. Errors:
    /// [`Error::NoEngine`], [`Error::BadSecret`], [`Error::System`].
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let v4 = listen(service, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let v6 = if_ipv6(listen(service, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))))?;
        Ok(Self {
            sockets: [v4].into_iter().chain(v6).collect(),
            refused: AtomicU64::new(0),
        })
    }

    /// The next redirected connection, and all there is to know of it.
    ///
    /// Blocks. A connection that was made straight to this port is closed and counted, see
    /// [`refused`](Self::refused). Errors are the listener's own and mostly pass (EMFILE).
    pub fn accept(&self) -> Result<Connection, Error> {
        loop {
            let ready = sys::wait_readable(&self.sockets)
                .map_err(Error::system("wait for a connection"))?;
            let accepted = self.sockets[ready].accept();
            if let Some(connection) = self.accepted(accepted.map(|(stream, _)| stream))? {
                return Ok(connection);
            }
        }
    }

    /// The same without blocking, from the socket of that place among [`sockets`](Self::sockets); its
    /// stream is non-blocking as well. `None` if none waits, or one that was made straight to this port.
    pub fn try_accept(&self, socket: usize) -> Result<Option<Connection>, Error> {
        let Some(listener) = self.sockets.get(socket) else {
            return Ok(None);
        };
        self.accepted(sys::accept_nonblocking(listener.as_fd()))
    }

    /// The sockets, non-blocking: to wait for, and for options that accepted ones are to inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    fn accepted(&self, accepted: io::Result<TcpStream>) -> Result<Option<Connection>, Error> {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Ok(None),
            Err(error) => return Err(Error::system("accept a connection")(error)),
        };
        let flow = self.ask(&stream)?;
        Ok(flow.map(|flow| Connection { stream, flow }))
    }

    /// `None` if it was not redirected to this service, which is counted.
    pub(crate) fn ask(&self, stream: impl AsFd) -> Result<Option<Flow>, Error> {
        match query(stream) {
            Ok(flow) => Ok(Some(flow)),
            Err(Error::NotRedirected | Error::NotConnected) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many connections were closed because they were not redirected to this service.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where it listens: IPv4, then IPv6 if the host has it.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }
}

fn listen(service: &Service, address: SocketAddr) -> Result<TcpListener, Error> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
        .map_err(Error::system("make the listener's socket"))?;
    // Not for IPv6: answers to a client bound to an address of another device would find no route.
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
            what: "register the listener",
            source,
        },
    }
}

/// Leaves a family's socket out where the host has no such family.
pub(crate) fn if_ipv6<T>(made: Result<T, Error>) -> Result<Option<T>, Error> {
    match made {
        Err(Error::System { source, .. }) if no_ipv6(&source) => Ok(None),
        made => made.map(Some),
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl Connection {
    /// The stream and its flow.
    pub fn into_parts(self) -> (TcpStream, Flow) {
        (self.stream, self.flow)
    }

    /// To the program.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Where it was going, and whose it is.
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
