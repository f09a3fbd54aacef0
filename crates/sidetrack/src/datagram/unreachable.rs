//! What a flow's client is told when its datagrams do not arrive.
//!
//! As networks tell it: by ICMP, from where they were going, about one that the client has sent. The
//! kernel finds the client's socket by the addresses that it knows, so the one in it is to the flow's
//! own address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Flow;

/// As Linux sets it; packets to this host lose none of it.
const HOPS: u8 = 64;
/// IPPROTO_RAW: whole packets are sent, and none received.
const RAW: i32 = 255;

/// Why a flow's datagrams do not arrive (RFC 792; RFC 4443, 3.1), and what a client is told whose socket
/// is connected, or asks for errors (`IP_RECVERR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreachable {
    /// Nobody takes them: ECONNREFUSED.
    Port,
    /// The host is not reached: EHOSTUNREACH, if the client asks for errors.
    Host,
    /// There is no way: ENETUNREACH, if the client asks for errors.
    Network,
    /// Somebody forbids it: EHOSTUNREACH (IPv4), EACCES (IPv6).
    Prohibited,
}

impl Unreachable {
    /// What an error of the outgoing socket means to the client; `None` if it does not concern the way.
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

/// The sockets that tell it, made when they are wanted.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    v4: OnceLock<Socket>,
    v6: OnceLock<Socket>,
}

impl Reporter {
    /// Errors: EPERM without CAP_NET_RAW.
    pub(super) fn report(&self, flow: &Flow, why: Unreachable) -> io::Result<()> {
        let (client, own) = (flow.client(), flow.own_address());
        let packet = packet(flow.original_destination().ip(), client, own, why)?;
        let to = SocketAddr::new(client.ip(), 0);
        self.socket(to)?.send_to(&packet, &to.into()).map(drop)
    }

    fn socket(&self, to: SocketAddr) -> io::Result<&Socket> {
        let place = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(socket) = place.get() {
            return Ok(socket);
        }
        let raw = Some(Protocol::from(RAW));
        let socket = Socket::new(Domain::for_address(to), Type::RAW, raw)?;
        socket.set_nonblocking(true)?;
        Ok(place.get_or_init(|| socket))
    }
}

/// What `from` says of a datagram from `client` to `target`.
fn packet(
    from: IpAddr,
    client: SocketAddr,
    target: SocketAddr,
    why: Unreachable,
) -> io::Result<Vec<u8>> {
    let (mut offending, mut packet) = (Vec::new(), Vec::new());
    let written = match (from, client.ip(), target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to), IpAddr::V4(own)) => {
            PacketBuilder::ipv4(to.octets(), own.octets(), HOPS)
                .udp(client.port(), target.port())
                .write(&mut offending, &[])
                .and_then(|()| {
                    PacketBuilder::ipv4(from.octets(), to.octets(), HOPS)
                        .icmpv4(Icmpv4Type::DestinationUnreachable(of_v4(why)))
                        .write(&mut packet, &offending)
                })
        }
        (IpAddr::V6(from), IpAddr::V6(to), IpAddr::V6(own)) => {
            PacketBuilder::ipv6(to.octets(), own.octets(), HOPS)
                .udp(client.port(), target.port())
                .write(&mut offending, &[])
                .and_then(|()| {
                    PacketBuilder::ipv6(from.octets(), to.octets(), HOPS)
                        .icmpv6(Icmpv6Type::DestinationUnreachable(of_v6(why)))
                        .write(&mut packet, &offending)
                })
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    written.map_err(io::Error::other)?;
    Ok(packet)
}

fn of_v4(why: Unreachable) -> DestUnreachableHeader {
    match why {
        Unreachable::Port => DestUnreachableHeader::Port,
        Unreachable::Host => DestUnreachableHeader::Host,
        Unreachable::Network => DestUnreachableHeader::Network,
        Unreachable::Prohibited => DestUnreachableHeader::FilterProhibited,
    }
}

fn of_v6(why: Unreachable) -> DestUnreachableCode {
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

    fn of(from: &str, client: &str, target: &str, why: Unreachable) -> Vec<u8> {
        let (from, client) = (from.parse().unwrap(), client.parse().unwrap());
        packet(from, client, target.parse().unwrap(), why).unwrap()
    }

    #[test]
    fn the_packets_carry_what_was_sent() {
        let v4 = of(
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
        let v6 = of(
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
    fn errors_have_a_meaning_or_none() {
        let of = |number| Unreachable::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::ECONNREFUSED), Some(Unreachable::Port));
        assert_eq!(of(libc::EACCES), Some(Unreachable::Prohibited));
        assert_eq!(of(libc::EMSGSIZE), None);
    }
}
