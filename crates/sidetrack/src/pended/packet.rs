//! The packets that a service's senders send for a held flow: the client's SYN once more, or what
//! the network answers to a SYN that does not arrive.

use std::io;
use std::net::IpAddr;

use etherparse::TcpHeader;
use sidetrack_abi::address;
use sidetrack_abi::kernel::Notice;

use crate::datagram::{Unreachable, error_packet, ip_packet};

/// Bytes of the TCP header that an ICMP error quotes: the ports and the sequence number.
const QUOTED: usize = 8;
/// Largest size of a packet in bytes: an IPv6 header and a TCP header with options.
const PACKET_SIZE_MAX: usize = 40 + 60;

/// How a held connect is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By a RST: ECONNREFUSED.
    Reset,
    /// By an ICMP error.
    Unreachable(Unreachable),
    /// By nothing: the client's own time-out ends the connect.
    Silence,
}

impl Refusal {
    /// The refusal that gives the client the error of the onward connect, as far as there is one.
    pub(super) fn of(error: &io::Error) -> Self {
        match Unreachable::of(error) {
            Some(Unreachable::Port) => Self::Reset,
            Some(why) => Self::Unreachable(why),
            None if error.kind() == io::ErrorKind::TimedOut => Self::Silence,
            None => Self::Reset,
        }
    }
}

/// The SYN of a held flow.
#[derive(Clone, Debug)]
pub(crate) struct Syn {
    client: IpAddr,
    target: IpAddr,
    /// The host that the program asked for.
    origin: IpAddr,
    tcp: TcpHeader,
}

impl Syn {
    /// Reads the SYN of a notice. Returns `None` if it contains no TCP header, or addresses of two
    /// families.
    pub(super) fn of(notice: &Notice) -> Option<Self> {
        let (client, target) = match (notice.client_addr.into(), notice.target_addr.into()) {
            (IpAddr::V6(client), IpAddr::V6(target)) => {
                match (client.to_ipv4_mapped(), target.to_ipv4_mapped()) {
                    (Some(client), Some(target)) => (client.into(), target.into()),
                    _ => (client.into(), target.into()),
                }
            }
            _ => return None,
        };
        let bytes = notice.tcp.get(..notice.tcp_length as usize)?;
        let (tcp, rest) = TcpHeader::from_slice(bytes).ok()?;
        rest.is_empty().then_some(Self {
            client,
            target,
            origin: address::from_bytes(notice.remote_addr),
            tcp,
        })
    }

    /// Address of the client. It may differ from the address that the client's socket shows.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    /// Address of the listener.
    pub(super) fn target(&self) -> IpAddr {
        self.target
    }

    /// Port of the listener.
    pub(super) fn target_port(&self) -> u16 {
        self.tcp.destination_port
    }

    /// The SYN as a packet. The notice has a copy of it without a usable checksum.
    pub(super) fn packet(&self) -> io::Result<Vec<u8>> {
        let mut packet = Vec::with_capacity(PACKET_SIZE_MAX);
        ip_packet(self.client, self.target)?
            .tcp_header(self.tcp.clone())
            .write(&mut packet, &[])
            .map_err(io::Error::other)?;
        Ok(packet)
    }

    /// The packet that refuses the SYN. `None` for silence.
    pub(super) fn refusal(&self, refusal: Refusal) -> io::Result<Option<Vec<u8>>> {
        match refusal {
            Refusal::Silence => Ok(None),
            Refusal::Reset => self.reset().map(Some),
            Refusal::Unreachable(why) => {
                let mut offending = self.packet()?;
                offending.truncate(offending.len() - self.tcp.header_len() + QUOTED);
                // A client that asks who has sent the error (IP_RECVERR) sees the origin.
                let same_family = self.origin.is_ipv4() == self.client.is_ipv4();
                let from = if same_family {
                    self.origin
                } else {
                    self.target
                };
                error_packet(from, self.client, &offending, why).map(Some)
            }
        }
    }

    /// The RST with which the kernel answers a SYN to a port without a listener.
    fn reset(&self) -> io::Result<Vec<u8>> {
        let mut packet = Vec::with_capacity(PACKET_SIZE_MAX);
        ip_packet(self.target, self.client)?
            .tcp(self.tcp.destination_port, self.tcp.source_port, 0, 0)
            .rst()
            .ack(self.tcp.sequence_number.wrapping_add(1))
            .write(&mut packet, &[])
            .map_err(io::Error::other)?;
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use sidetrack_abi::address::to_bytes;
    use sidetrack_abi::kernel::{NOTICE_SYN, Records, TCP_HEADER_MAX};

    use super::*;

    /// A SYN from port 4000 to port 80 with sequence number 0x01020304 and 4 bytes of options.
    fn notice(client: &str, target: &str) -> Notice {
        let header = [
            0x0f, 0xa0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0xde, 0xad, 0, 0, 2, 4,
            5, 0xb4,
        ];
        let mut tcp = [0; TCP_HEADER_MAX];
        tcp[..header.len()].copy_from_slice(&header);
        Notice {
            kind: NOTICE_SYN,
            tcp_length: header.len() as u32,
            records: Records {
                flow_id: 1,
                engine_id: 2,
                mac: [3; 16],
            },
            connected_at: 0,
            remote_addr: to_bytes("192.0.2.1".parse().unwrap()),
            client_addr: to_bytes(client.parse().unwrap()),
            target_addr: to_bytes(target.parse().unwrap()),
            remote_port: [0, 80],
            reserved: 0,
            tcp,
        }
    }

    fn syn(client: &str, target: &str) -> Syn {
        Syn::of(&notice(client, target)).unwrap()
    }

    /// The addresses of a packet, and its TCP header, whose checksum is right.
    fn tcp_of(packet: &[u8]) -> (IpAddr, IpAddr, TcpHeader) {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("no TCP header");
        };
        let header = tcp.to_header();
        match sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                let checksum = tcp.calc_checksum_ipv4(ip.source(), ip.destination());
                assert_eq!(checksum.unwrap(), header.checksum);
                (
                    ip.source_addr().into(),
                    ip.destination_addr().into(),
                    header,
                )
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                let checksum = tcp.calc_checksum_ipv6(ip.source(), ip.destination());
                assert_eq!(checksum.unwrap(), header.checksum);
                (
                    ip.source_addr().into(),
                    ip.destination_addr().into(),
                    header,
                )
            }
            _ => panic!("no IP header"),
        }
    }

    #[test]
    fn the_syn_is_the_clients_with_a_right_checksum() {
        for (client, target) in [("127.0.0.1", "127.1.2.3"), ("::1", "::1")] {
            let packet = syn(client, target).packet().unwrap();
            let (from, to, tcp) = tcp_of(&packet);
            assert_eq!(
                (from.to_string(), to.to_string()),
                (client.into(), target.into())
            );
            assert_eq!((tcp.source_port, tcp.destination_port), (4000, 80));
            assert_eq!(tcp.sequence_number, 0x0102_0304);
            assert!(tcp.syn && !tcp.ack && !tcp.rst);
            assert_eq!(tcp.options.as_slice(), [2, 4, 5, 0xb4]);
        }
    }

    #[test]
    fn the_reset_acknowledges_the_syn() {
        for (client, target) in [("127.0.0.1", "127.1.2.3"), ("::1", "::1")] {
            let packet = syn(client, target).refusal(Refusal::Reset).unwrap();
            let (from, to, tcp) = tcp_of(&packet.unwrap());
            assert_eq!(
                (from.to_string(), to.to_string()),
                (target.into(), client.into())
            );
            assert_eq!((tcp.source_port, tcp.destination_port), (80, 4000));
            assert_eq!(
                (tcp.sequence_number, tcp.acknowledgment_number),
                (0, 0x0102_0305)
            );
            assert!(tcp.rst && tcp.ack && !tcp.syn);
        }
    }

    #[test]
    fn errors_quote_the_addresses_the_ports_and_the_sequence_number() {
        let refusal = Refusal::Unreachable(Unreachable::Host);
        let syn4 = syn("127.0.0.1", "127.1.2.3");
        let v4 = syn4.refusal(refusal).unwrap().unwrap();
        assert_eq!(v4.len(), 20 + 8 + 20 + 8);
        assert_eq!((v4[9], &v4[20..22]), (1, &[3, 1][..]));
        assert_eq!(v4[12..20], [192, 0, 2, 1, 127, 0, 0, 1]);
        assert_eq!(v4[28..48], syn4.packet().unwrap()[..20]);
        assert_eq!(v4[48..56], [0x0f, 0xa0, 0, 80, 1, 2, 3, 4]);
        let refusal = Refusal::Unreachable(Unreachable::Prohibited);
        let v6 = syn("::1", "::1").refusal(refusal).unwrap().unwrap();
        assert_eq!(v6.len(), 40 + 8 + 40 + 8);
        assert_eq!((v6[6], &v6[40..42]), (58, &[1, 1][..]));
        assert_eq!(v6[88..96], [0x0f, 0xa0, 0, 80, 1, 2, 3, 4]);
    }

    #[test]
    fn each_error_of_a_connect_has_its_refusal() {
        let of = |number| Refusal::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::ECONNREFUSED), Refusal::Reset);
        assert_eq!(of(libc::ECONNRESET), Refusal::Reset);
        assert_eq!(of(libc::ETIMEDOUT), Refusal::Silence);
        assert_eq!(
            of(libc::EHOSTUNREACH),
            Refusal::Unreachable(Unreachable::Host)
        );
        assert_eq!(
            of(libc::ENETUNREACH),
            Refusal::Unreachable(Unreachable::Network)
        );
        assert_eq!(
            of(libc::EACCES),
            Refusal::Unreachable(Unreachable::Prohibited)
        );
    }

    proptest! {
        /// Whatever header a notice has, building packets never panics, and a SYN that is read has
        /// the bytes of its notice.
        #[test]
        fn hostile_notices_make_packets_or_none(
            tcp in prop::collection::vec(any::<u8>(), TCP_HEADER_MAX),
            tcp_length in prop_oneof![0..70_u32, any::<u32>()],
            client in any::<[u8; 16]>(),
            mapped in any::<bool>(),
        ) {
            let mut notice = notice("127.0.0.1", "127.0.0.2");
            notice.tcp.copy_from_slice(&tcp);
            notice.tcp_length = tcp_length;
            if !mapped {
                notice.client_addr = client;
            }
            let Some(syn) = Syn::of(&notice) else {
                return Ok(());
            };
            let packet = syn.packet().unwrap();
            let header = &packet[packet.len() - tcp_length as usize..];
            prop_assert_eq!(&header[..12], &tcp[..12]);
            prop_assert_eq!(&header[20..], &tcp[20..tcp_length as usize]);
            for why in [Unreachable::Host, Unreachable::Network, Unreachable::Prohibited] {
                syn.refusal(Refusal::Unreachable(why)).unwrap();
            }
            syn.refusal(Refusal::Reset).unwrap();
        }
    }
}
