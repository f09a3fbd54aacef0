//! The socket with which a proxy goes on.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use sidetrack_abi::kernel;
use socket2::{Domain, Protocol, Socket, Type};
use zerocopy::IntoBytes;

use crate::{Error, Flow, Records, sys};

/// Links a new, unconnected socket to a flow (SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS).
///
/// Errors: [`Error::AlreadyConnected`], [`Error::BadRecords`], [`Error::NoEngine`]. A failure is
/// final: connecting all the same would be refused, or loop where nothing enforces it.
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
    /// A new TCP socket for `destination`, with the records set, not yet connected: for those who
    /// want to set options of their own first.
    pub fn outgoing(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_of(destination, Type::STREAM, Protocol::TCP)
    }

    /// A new UDP socket for `destination`, with the records set, not yet connected.
    pub fn outgoing_datagrams(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_of(destination, Type::DGRAM, Protocol::UDP)
    }

    /// As [`Flow::outgoing`], non-blocking from the beginning.
    pub(crate) fn outgoing_nonblocking(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.outgoing_of(destination, Type::STREAM.nonblocking(), Protocol::TCP)
    }

    /// Goes on to where the flow's datagrams were going, with the records set.
    ///
    /// One socket for each flow: so answers come to theirs. Errors: [`Error::SelfConnect`],
    /// [`Error::BadRecords`], [`Error::System`] with the connect's own reason.
    pub fn connect_datagrams(&self) -> Result<UdpSocket, Error> {
        self.connect_datagrams_as(Type::DGRAM)
    }

    /// The same, non-blocking from the beginning.
    pub fn connect_datagrams_nonblocking(&self) -> Result<UdpSocket, Error> {
        self.connect_datagrams_as(Type::DGRAM.nonblocking())
    }

    fn connect_datagrams_as(&self, kind: Type) -> Result<UdpSocket, Error> {
        let destination = self.original_destination();
        let socket = self.outgoing_of(destination, kind, Protocol::UDP)?;
        socket
            .connect(&destination.into())
            .map_err(Error::system("connect to the destination"))?;
        Ok(socket.into())
    }

    fn outgoing_of(
        &self,
        destination: SocketAddr,
        kind: Type,
        protocol: Protocol,
    ) -> Result<Socket, Error> {
        if self.is_own_listener(destination) {
            return Err(Error::SelfConnect(destination));
        }
        let socket = Socket::new(Domain::for_address(destination), kind, Some(protocol))
            .map_err(Error::system("make the outgoing socket"))?;
        set_records(&socket, &self.records())?;
        Ok(socket)
    }

    /// A listener made by this crate takes every loopback address, so the port decides there.
    fn is_own_listener(&self, destination: SocketAddr) -> bool {
        let own = self.own_address();
        destination.port() == own.port()
            && (destination.ip() == own.ip()
                || (destination.ip().is_loopback() && own.ip().is_loopback())
                || destination.ip().is_unspecified())
            && destination.is_ipv4() == own.is_ipv4()
    }
}
