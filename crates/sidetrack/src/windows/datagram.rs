//! Redirected datagrams. Records and context arrive as control data of a flow's first datagram
//! (docs/wfp.md, 2.2).

use std::net::{SocketAddr, UdpSocket};

use super::context::{self, ParsedContext};
use super::query::error_of_code;
use super::{Records, Service, sys};
use crate::Error;

/// The UDP socket of a service.
#[derive(Debug)]
pub struct DatagramListener {
    socket: UdpSocket,
}

/// A received datagram.
///
/// Only the first datagram of a flow has records and a context, so a proxy keeps a table of flows
/// by sender (docs/wfp.md, 2.2).
#[derive(Debug)]
pub struct Datagram {
    /// Length of the payload in bytes.
    pub length: usize,
    /// Address of the client.
    pub from: SocketAddr,
    /// The redirect records, to be passed to [`send_first`]; `None` if this is not a flow's first
    /// datagram.
    pub records: Option<Records>,
    /// The redirect context, in the driver's layout; `None` if this is not a flow's first datagram,
    /// or the driver gave none.
    pub context: Option<Box<[u8]>>,
}

impl DatagramListener {
    /// Binds to the address that the driver redirects to, and asks for control data with records
    /// and context.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the address cannot be bound, [`Error::NoEngine`] if the system does not
    /// know the options IP_WFP_REDIRECT_RECORDS and IP_WFP_REDIRECT_CONTEXT.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let address = service.address();
        let socket = UdpSocket::bind(address).map_err(Error::system("bind the UDP socket"))?;
        match sys::enable_control_data(&socket, address.is_ipv4()) {
            0 => Ok(Self { socket }),
            _ => Err(Error::NoEngine),
        }
    }

    /// Waits for the next datagram and copies its payload to `buffer`.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with the error of WSARecvMsg; for example WSAEMSGSIZE if the payload is
    /// longer than `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Datagram, Error> {
        loop {
            let received = sys::receive(&self.socket, buffer).map_err(error_of_code)?;
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

    /// The socket, to send answers with.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

impl Datagram {
    /// Parses the context. `None` if there is none, or if its layout is unknown.
    pub fn parsed_context(&self) -> Option<ParsedContext> {
        context::parse(self.context.as_deref()?)
    }
}

/// Sends the first datagram of a flow to its destination, with the redirect records as control
/// data. The flow's other datagrams are sent without (docs/wfp.md, 2.3). Returns the number of
/// bytes sent.
///
/// # Errors
///
/// [`Error::System`] with the error of WSASendMsg.
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
