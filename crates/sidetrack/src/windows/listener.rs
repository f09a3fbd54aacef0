//! The TCP listener of a service.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Flow, Service, query};
use crate::Error;

/// Length of the accept queue. If it overflows, accepted sockets lose their records (docs/wfp.md,
/// 3.7).
const BACKLOG: i32 = -1024; // SOMAXCONN_HINT(1024)

/// The TCP listener of a service, at the address that the driver redirects to.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Number of accepted connections that were not redirected.
    refused: AtomicU64,
}

/// An accepted connection that was redirected, with its flow.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    flow: Flow,
}

impl Listener {
    /// Listens on the address of the service.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if a system call failed.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let address = service.address();
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .map_err(Error::system("create the listener's socket"))?;
        socket
            .bind(&address.into())
            .map_err(Error::system("bind the listener"))?;
        socket.listen(BACKLOG).map_err(Error::system("listen"))?;
        Ok(Self {
            socket: socket.into(),
            refused: AtomicU64::new(0),
        })
    }

    /// Waits for the next redirected connection, and returns it with its flow.
    ///
    /// A connection that was not redirected is closed and counted in [`refused`](Self::refused);
    /// the call then waits for another one.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if accepting failed. Otherwise the errors of [`query`].
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

    /// Number of connections that were closed because they were not redirected.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The address of the listener, as the only element.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![self.socket.local_addr()?])
    }
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
