//! The ways to the origins.

use std::net::{SocketAddr, TcpStream};

use sidetrack::Flow;

/// How to go on from an accepted connection to its origin.
pub trait Upstream {
    /// The address that the client asked for.
    fn destination(&self) -> SocketAddr;
    /// Connects to the origin with a non-blocking socket. The connect may still be in progress when
    /// this returns. Called at most once, and only if no rule has denied the connection.
    fn connect(&self) -> Result<TcpStream, sidetrack::Error>;
}

impl Upstream for Flow {
    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn connect(&self) -> Result<TcpStream, sidetrack::Error> {
        self.connect_nonblocking()
    }
}
