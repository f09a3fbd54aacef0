//! ICMP errors for the clients of flows whose datagrams do not arrive. Held connects are refused by
//! the same errors (`pended/packet.rs`).
//!
//! The error is an ICMP packet with the original destination as its source, and with one of the
//! client's datagrams quoted in it. The kernel finds the client's socket by the addresses of the
//! quoted datagram. These must be the addresses that the kernel knows for the socket, so the quoted
//! datagram is addressed to the flow's own address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, PacketBuilderStep};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Flow;

/// Hop limit of the packets: the default of Linux. A packet to this host does not lose any.
const HOPS: u8 = 64;
/// IPPROTO_RAW: a socket of this protocol sends whole packets and receives none.
pub(crate) const RAW: i32 = 255;

/// The reason why the datagrams of a flow do not arrive: a code of the ICMP message "destination
/// unreachable" (RFC 792; RFC 4443, 3.1). See
/// [`DatagramListener::report`](crate::DatagramListener::report).
///
/// Each variant names the error that the client's socket gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreachable {
    /// No socket is bound to the port: ECONNREFUSED.
    Port,
    /// The host cannot be reached: EHOSTUNREACH, if the client asks for errors (`IP_RECVERR`).
    Host,
    /// There is no route: ENETUNREACH, if the client asks for errors (`IP_RECVERR`).
    Network,
    /// A filter or a firewall forbids it: EHOSTUNREACH for IPv4, EACCES for IPv6.
    Prohibited,
}

impl Unreachable {
    /// The reason that corresponds to an error of the outgoing socket. `None` if the error does not
    /// concern the path to the destination, for example EMSGSIZE.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::Port),
            io::ErrorKind::HostUnreachable => Some(Self::Host),
            io::ErrorKind::NetworkUnreachable => Some(Self::Network),
            io::ErrorKind::PermissionDenied => Some(Self::Prohibited),
            _ => None,
        }
    }
}

/// The raw sockets from which errors are sent. Each is created when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    v4: OnceLock<Socket>,
    v6: OnceLock<Socket>,
}

impl Reporter {
    /// Sends an error to the client of a flow. Fails with EPERM without CAP_NET_RAW.
    pub(super) fn report(&self, flow: &Flow, why: Unreachable) -> io::Result<()> {
        let (client, own) = (flow.client(), flow.own_address());
        let packet = packet(flow.original_destination().ip(), client, own, why)?;
        let to = SocketAddr::new(client.ip(), 0);
        self.socket(to)?.send_to(&packet, &to.into()).map(drop)
    }

    fn socket(&self, to: SocketAddr) -> io::Result<&Socket> {
        let slot = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(socket) = slot.get() {
            return Ok(socket);
        }
        let raw = Some(Protocol::from(RAW));
        let socket = Socket::new(Domain::for_address(to), Type::RAW, raw)?;
        socket.set_nonblocking(true)?;
        Ok(slot.get_or_init(|| socket))
    }
}

/// Builds the packet in which the host `from` reports a datagram from `client` to `target`.
fn packet(
    from: IpAddr,
    client: SocketAddr,
    target: SocketAddr,
    why: Unreachable,
) -> io::Result<Vec<u8>> {
    let mut offending = Vec::new();
    ip_packet(client.ip(), target.ip())?
        .udp(client.port(), target.port())
        .write(&mut offending, &[])
        .map_err(io::Error::other)?;
    error_packet(from, client.ip(), &offending, why)
}

/// Starts to build a packet between two addresses, which must be of one family.
pub(crate) fn ip_packet(from: IpAddr, to: IpAddr) -> io::Result<PacketBuilderStep<IpHeaders>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Ok(PacketBuilder::ipv4(from.octets(), to.octets(), HOPS))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Ok(PacketBuilder::ipv6(from.octets(), to.octets(), HOPS))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Builds the ICMP packet in which the host `from` reports to `client` that the packet whose first
/// bytes are `offending` does not arrive.
pub(crate) fn error_packet(
    from: IpAddr,
    client: IpAddr,
    offending: &[u8],
    why: Unreachable,
) -> io::Result<Vec<u8>> {
    let mut packet = Vec::new();
    let ip = ip_packet(from, client)?;
    let written = if client.is_ipv4() {
        ip.icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4_code(why)))
            .write(&mut packet, offending)
    } else {
        ip.icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6_code(why)))
            .write(&mut packet, offending)
    };
    written.map_err(io::Error::other)?;
    Ok(packet)
}

fn icmpv4_code(why: Unreachable) -> DestUnreachableHeader {
    match why {
        Unreachable::Port => DestUnreachableHeader::Port,
        Unreachable::Host => DestUnreachableHeader::Host,
        Unreachable::Network => DestUnreachableHeader::Network,
        Unreachable::Prohibited => DestUnreachableHeader::FilterProhibited,
    }
}

fn icmpv6_code(why: Unreachable) -> DestUnreachableCode {
    match why {
        Unreachable::Port => DestUnreachableCode::Port,
        Unreachable::Host => DestUnreachableCode::Address,
        Unreachable::Network => DestUnreachableCode::NoRoute,
        Unreachable::Prohibited => DestUnreachableCode::Prohibited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet_from(from: &str, client: &str, target: &str, why: Unreachable) -> Vec<u8> {
        let (from, client) = (from.parse().unwrap(), client.parse().unwrap());
        packet(from, client, target.parse().unwrap(), why).unwrap()
    }

    #[test]
    fn packets_quote_the_datagram_of_the_client() {
        let v4 = packet_from(
            "192.0.2.1",
            "127.0.0.1:4000",
            "127.128.0.9:53",
            Unreachable::Port,
        );
        assert_eq!(v4.len(), 20 + 8 + 20 + 8);
        assert_eq!((v4[9], &v4[12..16]), (1, &[192, 0, 2, 1][..]));
        assert_eq!(v4[20..22], [3, 3]);
        assert_eq!(v4[28 + 16..28 + 20], [127, 128, 0, 9]);
        assert_eq!(v4[48..52], [0x0f, 0xa0, 0, 53]);
        let v6 = packet_from(
            "2001:db8::1",
            "[::1]:4000",
            "[fd53::9]:53",
            Unreachable::Prohibited,
        );
        assert_eq!(v6.len(), 40 + 8 + 40 + 8);
        assert_eq!((v6[6], &v6[40..42]), (58, &[1, 1][..]));
        assert_eq!(v6[88..92], [0x0f, 0xa0, 0, 53]);
    }

    #[test]
    fn errors_of_the_path_have_a_reason_and_others_none() {
        let reason_of = |number| Unreachable::of(&io::Error::from_raw_os_error(number));
        assert_eq!(reason_of(libc::ECONNREFUSED), Some(Unreachable::Port));
        assert_eq!(reason_of(libc::EACCES), Some(Unreachable::Prohibited));
        assert_eq!(reason_of(libc::EMSGSIZE), None);
    }
}
