//! Redirected datagrams: records and context come as control data of a flow's first one (spec 2).

use std::net::{SocketAddr, UdpSocket};

use super::context::{self, Told};
use super::query::failure;
use super::{Records, Service, sys};
use crate::Error;

/// A service's UDP socket.
#[derive(Debug)]
pub struct DatagramListener {
    socket: UdpSocket,
}

/// A datagram that has come. Only a flow's first one has records and a context: keep a table by the sender.
#[derive(Debug)]
pub struct Datagram {
    /// Bytes of the payload.
    pub length: usize,
    /// The client.
    pub from: SocketAddr,
    /// For the first datagram that goes on; see [`send_first`].
    pub records: Option<Records>,
    /// The driver's.
    pub context: Option<Box<[u8]>>,
}

impl DatagramListener {
    /// Listens where the driver redirects to. Errors: [`Error::NoEngine`] where the options are unknown.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let address = service.address();
        let socket = UdpSocket::bind(address).map_err(Error::system("bind the UDP socket"))?;
        match sys::want_control(&socket, address.is_ipv4()) {
            0 => Ok(Self { socket }),
            _ => Err(Error::NoEngine),
        }
    }

    /// The next datagram. Blocks.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Datagram, Error> {
        loop {
            let received = sys::receive(&self.socket, buffer).map_err(failure)?;
            let Some(from) = received.from else { continue };
            let mut datagram = Datagram {
                length: received.length,
                from,
                records: None,
                context: None,
            };
            for (level, kind, data) in received.control {
                match (level, kind) {
                    (0 | 41, _) if data.is_empty() => {}
                    (0 | 41, sys::IP_WFP_REDIRECT_RECORDS) => {
                        datagram.records = Some(Records::from_bytes(&data));
                    }
                    (0 | 41, sys::IP_WFP_REDIRECT_CONTEXT) => datagram.context = Some(data),
                    _ => {}
                }
            }
            return Ok(datagram);
        }
    }

    /// To answer with.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

impl Datagram {
    /// Where it was going, if its context has a layout that is known.
    pub fn told(&self) -> Option<Told> {
        context::read(self.context.as_deref()?)
    }
}

/// Sends a flow's first datagram on, with its records. The following ones need none.
pub fn send_first(
    socket: &UdpSocket,
    payload: &[u8],
    to: SocketAddr,
    records: &Records,
) -> Result<usize, Error> {
    sys::send(socket, payload, to, records.as_bytes()).map_err(|error| Error::System {
        what: "send with the redirect records",
        source: std::io::Error::from_raw_os_error(error),
    })
}
