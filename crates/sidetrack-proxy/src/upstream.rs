//! The ways to the origins.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use sidetrack::{Error, Flow};

/// How to go on from an accepted connection to its origin.
pub trait Upstream {
    /// The address that the client asked for.
    fn destination(&self) -> SocketAddr;
    /// Connects to the origin with a non-blocking socket. The connect may still be in progress when
    /// this returns. Called at most once, and only if no rule has denied the connection.
    fn connect(&self) -> Result<TcpStream, Error>;
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
    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_nonblocking()
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
