//! Where a service's redirected connections arrive.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Flow, Service, query};
use crate::Error;

/// Connections the system may keep ready before `accept`. A full queue loses records (spec 3.7).
const BACKLOG: i32 = -1024; // SOMAXCONN_HINT(1024)

/// A service's listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    refused: AtomicU64,
}

/// An accepted, redirected connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    flow: Flow,
}

impl Listener {
    /// Listens where the driver redirects to.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let address = service.address();
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .map_err(Error::system("make the listener's socket"))?;
        socket
            .bind(&address.into())
            .map_err(Error::system("bind the listener"))?;
        socket.listen(BACKLOG).map_err(Error::system("listen"))?;
        Ok(Self {
            socket: socket.into(),
            refused: AtomicU64::new(0),
        })
    }

    /// The next redirected connection, and all there is to know of it.
    ///
    /// Blocks. A connection that was not redirected is closed and counted, see [`refused`](Self::refused).
    pub fn accept(&self) -> Result<Connection, Error> {
        loop {
            let (stream, _) = self
                .socket
                .accept()
                .map_err(Error::system("accept a connection"))?;
            match query(&stream) {
                Ok(flow) => return Ok(Connection { stream, flow }),
                Err(Error::NotRedirected | Error::NotConnected) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many connections were closed because they were not redirected.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where it listens.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![self.socket.local_addr()?])
    }
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
