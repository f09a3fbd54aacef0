//! The outgoing sockets of a proxy, which carry the redirect records of a flow, and their connects.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use sidetrack_abi::kernel;
use socket2::{Domain, Protocol, Socket, Type};
use zerocopy::IntoBytes;

use crate::{Error, Flow, Records, sys};

/// Sets the redirect records on a new, unconnected socket, which links the socket to their flow
/// (SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS; docs/wfp.md, 1.7).
///
/// [`Flow::connect`] and [`Flow::outgoing`] set the records by themselves. Use this function for a
/// socket that another library creates.
///
/// # Errors
///
/// A failure is final. Do not connect the socket: the kernel would refuse the connect, or, where no
/// engine enforces that, the connection could be redirected to this proxy again and loop.
///
/// - [`Error::AlreadyConnected`] if the socket is connected.
/// - [`Error::BadRecords`] if the records are not valid, or no longer.
/// - [`Error::NoEngine`] if no engine is attached where the socket was created.
/// - [`Error::NotTcp`] if the socket is neither a TCP nor a UDP socket.
/// - [`Error::System`] if the system call failed for another reason.
pub fn set_records(socket: impl AsFd, records: &Records) -> Result<(), Error> {
    sys::set_option(socket.as_fd(), kernel::RECORDS, records.0.as_bytes()).map_err(records_error)
}

fn records_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::NoEngine,
        Some(libc::EISCONN) => Error::AlreadyConnected,
        Some(libc::EPROTONOSUPPORT) => Error::NotTcp,
        Some(libc::EINVAL) => Error::BadRecords,
        _ => Error::System {
            what: "set the redirect records",
            source,
        },
    }
}

impl Flow {
    /// Connects to the original destination with the records set. Blocks until connected.
    ///
    /// # Errors
    ///
    /// - [`Error::SelfConnect`] if the destination is this proxy's own listener.
    /// - [`Error::BadRecords`] if the flow ended more than 60 seconds ago.
    /// - [`Error::NoEngine`] if the engine is no longer attached.
    /// - [`Error::System`] if creating or connecting the socket failed. Besides the usual causes,
    ///   connect fails with EACCES if a filter blocks it, with ECONNREFUSED if the next service is
    ///   absent, and with ELOOP after 16 services (docs/proxies.md, Errors).
    pub fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_to(self.original_destination())
    }

    /// Connects to another destination instead, with the records set. Blocks until connected.
    /// Errors are those of [`connect`](Self::connect).
    ///
    /// If the service has `records_bound`, the kernel refuses any other destination than the original
    /// one with EPERM.
    pub fn connect_to(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        connect(self.outgoing(destination)?, destination)
    }

    /// Starts to connect to the original destination with the records set, and does not wait.
    ///
    /// The returned stream is non-blocking. It is connected as soon as it is writable and
    /// [`TcpStream::take_error`] returns `None`. Errors are those of [`connect`](Self::connect), as
    /// far as they are known immediately.
    pub fn connect_nonblocking(&self) -> Result<TcpStream, Error> {
        self.connect_to_nonblocking(self.original_destination())
    }

    /// Starts to connect to another destination instead; see
    /// [`connect_nonblocking`](Self::connect_nonblocking).
    pub fn connect_to_nonblocking(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        start_to_connect(self.outgoing_nonblocking(destination)?, destination)
    }

    /// Creates a TCP socket for `destination` with the records set, not yet connected.
    ///
    /// Use it to set socket options before connecting.
    ///
    /// ```no_run
    /// # fn example(flow: &sidetrack::Flow) -> Result<(), Box<dyn std::error::Error>> {
    /// let destination = flow.original_destination();
    /// let socket = flow.outgoing(destination)?;
    /// socket.set_tcp_nodelay(true)?;
    /// socket.connect(&destination.into())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), without those of the system call connect.
    pub fn outgoing(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_socket(destination, Type::STREAM, Protocol::TCP)
    }

    /// Creates a UDP socket for `destination` with the records set, not yet connected. Errors are
    /// those of [`outgoing`](Self::outgoing).
    pub fn outgoing_datagrams(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_socket(destination, Type::DGRAM, Protocol::UDP)
    }

    /// As [`outgoing`](Self::outgoing), but the socket is non-blocking from its creation.
    fn outgoing_nonblocking(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_socket(destination, Type::STREAM.nonblocking(), Protocol::TCP)
    }

    /// Connects a new UDP socket to the flow's original destination, with the records set.
    ///
    /// Open one socket for each flow, so that answers can be assigned to their flow. Errors are
    /// those of [`connect`](Self::connect).
    pub fn connect_datagrams(&self) -> Result<UdpSocket, Error> {
        self.connect_datagrams_with(Type::DGRAM)
    }

    /// As [`connect_datagrams`](Self::connect_datagrams), but the socket is non-blocking from its
    /// creation.
    pub fn connect_datagrams_nonblocking(&self) -> Result<UdpSocket, Error> {
        self.connect_datagrams_with(Type::DGRAM.nonblocking())
    }

    fn connect_datagrams_with(&self, socket_type: Type) -> Result<UdpSocket, Error> {
        let destination = self.original_destination();
        let socket = self.outgoing_socket(destination, socket_type, Protocol::UDP)?;
        socket
            .connect(&destination.into())
            .map_err(Error::system("connect to the destination"))?;
        Ok(socket.into())
    }

    fn outgoing_socket(
        &self,
        destination: SocketAddr,
        socket_type: Type,
        protocol: Protocol,
    ) -> Result<Socket, Error> {
        check_destination(destination, self.own_address())?;
        make_socket(destination, &self.records(), socket_type, protocol)
    }
}

/// Whether a socket is blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    Yes,
    No,
}

/// Creates a TCP socket for `destination` with the records set. Before it is connected,
/// [`check_destination`] must be called.
pub(crate) fn socket(
    destination: SocketAddr,
    records: &Records,
    blocking: Blocking,
) -> Result<Socket, Error> {
    let socket_type = match blocking {
        Blocking::Yes => Type::STREAM,
        Blocking::No => Type::STREAM.nonblocking(),
    };
    make_socket(destination, records, socket_type, Protocol::TCP)
}

/// Connects a blocking socket.
pub(crate) fn connect(socket: Socket, destination: SocketAddr) -> Result<TcpStream, Error> {
    socket
        .connect(&destination.into())
        .map_err(Error::system("connect to the destination"))?;
    Ok(socket.into())
}

/// Starts to connect a non-blocking socket.
pub(crate) fn start_to_connect(
    socket: Socket,
    destination: SocketAddr,
) -> Result<TcpStream, Error> {
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(Error::system("connect to the destination")(error))
        }
        _ => Ok(socket.into()),
    }
}

/// Fails if `destination` is the listener at `own`, to which the flow was redirected.
pub(crate) fn check_destination(destination: SocketAddr, own: SocketAddr) -> Result<(), Error> {
    match is_own_listener(own, destination) {
        true => Err(Error::SelfConnect(destination)),
        false => Ok(()),
    }
}

fn make_socket(
    destination: SocketAddr,
    records: &Records,
    socket_type: Type,
    protocol: Protocol,
) -> Result<Socket, Error> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, socket_type, Some(protocol))
        .map_err(Error::system("create the outgoing socket"))?;
    set_records(&socket, records)?;
    Ok(socket)
}

/// Whether `destination` is the listener at `own`. A listener of this crate accepts connections to
/// every loopback address, so among loopback addresses only the port is compared.
fn is_own_listener(own: SocketAddr, destination: SocketAddr) -> bool {
    destination.port() == own.port()
        && (destination.ip() == own.ip()
            || (destination.ip().is_loopback() && own.ip().is_loopback())
            || destination.ip().is_unspecified())
        && destination.is_ipv4() == own.is_ipv4()
}

/// Checks that this host has a route to an address. Sends nothing: a UDP socket that connects only looks up
/// the route, and with port 0 no filter applies to it.
pub(crate) fn check_route(address: IpAddr) -> Result<(), Error> {
    let destination = SocketAddr::new(address, 0);
    let domain = Domain::for_address(destination);
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
        .and_then(|socket| socket.connect(&destination.into()))
        .map_err(Error::system("find a route to the destination"))
}
