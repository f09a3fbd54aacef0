//! The ways to the origins.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use sidetrack::{Error, Flow, Pending};

/// How to go on from an accepted connection to its origin.
pub trait Upstream {
    /// The id of the flow.
    fn flow_id(&self) -> u64;
    /// The address that the client asked for.
    fn destination(&self) -> SocketAddr;
    /// Connects to the origin with a non-blocking socket. The connect may still be in progress when
    /// this returns. Called at most once, and only if no rule has denied the connection.
    fn connect(&self) -> Result<TcpStream, Error>;
}

/// A client's connect that is held. If it is dropped, the connect is refused.
pub(crate) trait PendingConnect {
    /// What is known of the connection, see [`Upstream`].
    type Upstream: Upstream;
    /// The id of the flow.
    fn flow_id(&self) -> u64;
    /// The address that the client asked for.
    fn destination(&self) -> SocketAddr;
    /// What is known of the connection. Not possible after the client has gone.
    fn upstream(&self) -> Result<Self::Upstream, Error>;
    /// The same as [`Upstream::connect`].
    fn connect(&self) -> Result<TcpStream, Error>;
    /// Fails if this host has no route to the destination, as a connect would.
    fn check_route(&self) -> Result<(), Error>;
    /// The index of the listening socket from which the client can be accepted after
    /// [`complete`](Self::complete).
    fn listening_socket(&self) -> usize;
    /// Lets the client's SYN through.
    fn complete(self) -> Result<(), Error>;
    /// Refuses the client's connect with this error.
    fn refuse(self, error: &io::Error);
}

/// How to go on from a UDP flow to its origin.
pub(crate) trait DatagramUpstream {
    /// Distinguishes the flow from all others of its event loop. It is less than 2⁶³.
    fn id(&self) -> u64;
    /// The address to which the client sends.
    fn destination(&self) -> SocketAddr;
    /// Makes a non-blocking socket that is connected to the origin.
    fn connect(&self) -> Result<UdpSocket, Error>;
}

impl Upstream for Flow {
    fn flow_id(&self) -> u64 {
        self.id()
    }

    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_nonblocking()
    }
}

impl PendingConnect for Pending {
    type Upstream = Flow;

    fn flow_id(&self) -> u64 {
        self.flow_id()
    }

    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn upstream(&self) -> Result<Flow, Error> {
        self.flow().cloned()
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_nonblocking()
    }

    fn check_route(&self) -> Result<(), Error> {
        self.check_route()
    }

    fn listening_socket(&self) -> usize {
        let is_ipv6 = self.flow().is_ok_and(|flow| flow.own_address().is_ipv6());
        usize::from(is_ipv6) // the listener's IPv4 socket is the first one
    }

    fn complete(self) -> Result<(), Error> {
        self.complete_nonblocking().map(|_| ())
    }

    fn refuse(self, error: &io::Error) {
        let _ = self.refuse(error); // the next SYN of the client makes the SDK try it again
    }
}

impl DatagramUpstream for Flow {
    fn id(&self) -> u64 {
        self.id()
    }

    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn connect(&self) -> Result<UdpSocket, Error> {
        self.connect_datagrams_nonblocking()
    }
}
