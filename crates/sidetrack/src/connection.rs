//! An accepted connection.

use std::net::TcpStream;

use crate::Flow;

/// An accepted connection that was redirected to the service, with its flow.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    flow: Flow,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, flow: Flow) -> Self {
        Self { stream, flow }
    }

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
