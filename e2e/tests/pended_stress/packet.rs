//! SYNs over IPv4, and raw sockets that send and see them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use e2e::wait;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const SYN: u8 = 2;
/// Bytes of a TCP segment in the first of two fragments: its header and a bit more.
const FIRST_FRAGMENT: usize = 24;

/// A SYN without options.
#[derive(Clone)]
pub(super) struct Syn {
    source: SocketAddrV4,
    target: SocketAddrV4,
    sequence: u32,
    /// Options and data.
    rest: Vec<u8>,
    options: usize,
    has_good_checksum: bool,
}

impl Syn {
    pub(super) fn new(source: SocketAddrV4, target: SocketAddrV4) -> Self {
        Self {
            source,
            target,
            sequence: 0x1234_5678,
            rest: Vec::new(),
            options: 0,
            has_good_checksum: true,
        }
    }

    /// Parses an IPv4 packet; `None` if it is no SYN.
    fn parse(packet: &[u8]) -> Option<Self> {
        let ip_header = usize::from(packet.first()? & 0xf) * 4;
        let tcp = packet.get(ip_header..)?;
        if packet[0] >> 4 != 4 || packet[9] != TCP || tcp.len() < TCP_HEADER || tcp[13] != SYN {
            return None;
        }
        let address = |at: usize| Ipv4Addr::from(word(packet, at));
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        Some(Self {
            source: SocketAddrV4::new(address(12), port(0)),
            target: SocketAddrV4::new(address(16), port(2)),
            sequence: u32::from_be_bytes(word(tcp, 4)),
            rest: tcp[TCP_HEADER..].to_vec(),
            options: usize::from(tcp[12] >> 4) * 4 - TCP_HEADER,
            has_good_checksum: true,
        })
    }

    pub(super) fn with_data(mut self, data: Vec<u8>) -> Self {
        self.rest.extend(data);
        self
    }

    pub(super) fn with_bad_checksum(mut self) -> Self {
        self.has_good_checksum = false;
        self
    }

    pub(super) fn with_sequence(&self, sequence: u32) -> Self {
        Self {
            sequence,
            ..self.clone()
        }
    }

    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    pub(super) fn target(&self) -> SocketAddrV4 {
        self.target
    }

    /// The packet as two fragments.
    pub(super) fn fragments(&self, id: u16) -> [Vec<u8>; 2] {
        const MORE: u16 = 0x2000;
        let segment = self.segment();
        let (first, second) = segment.split_at(FIRST_FRAGMENT);
        let offset = FIRST_FRAGMENT as u16 / 8;
        [
            self.packet(first, id, MORE),
            self.packet(second, id, offset),
        ]
    }

    fn bytes(&self) -> Vec<u8> {
        self.packet(&self.segment(), 0, 0)
    }

    /// An IPv4 packet. The kernel computes the checksum of its header.
    fn packet(&self, payload: &[u8], id: u16, fragment: u16) -> Vec<u8> {
        let length = (IP_HEADER + payload.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, TCP, 0, 0]);
        packet.extend(self.source.ip().octets());
        packet.extend(self.target.ip().octets());
        packet.extend(payload);
        packet
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.target.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend([0; 4]);
        let length_in_words = ((TCP_HEADER + self.options) / 4) as u8;
        segment.extend([length_in_words << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(&self.rest);
        let good = self.checksum(&segment);
        let checksum = match self.has_good_checksum {
            true => good,
            false => good ^ 0x0101,
        };
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    /// The checksum of a segment and its pseudo header (RFC 9293, 3.1).
    fn checksum(&self, segment: &[u8]) -> u16 {
        let mut bytes = Vec::new();
        bytes.extend(self.source.ip().octets());
        bytes.extend(self.target.ip().octets());
        bytes.extend([0, TCP]);
        bytes.extend((segment.len() as u16).to_be_bytes());
        bytes.extend(segment);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let pairs = bytes.chunks(2);
        let mut sum: u32 = pairs
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

fn word(bytes: &[u8], at: usize) -> [u8; 4] {
    std::array::from_fn(|index| bytes[at + index])
}

/// A raw socket that sends whole IPv4 packets.
pub(super) struct RawSender {
    socket: OwnedFd,
}

impl RawSender {
    /// Makes it in this process's cgroup.
    pub(super) fn new() -> Self {
        let socket = net::socket(
            AddressFamily::INET,
            SocketType::RAW,
            Some(net::ipproto::RAW),
        );
        Self {
            socket: socket.expect("the test runs as root"),
        }
    }

    pub(super) fn send(&self, syn: &Syn) {
        self.send_bytes(&syn.bytes(), syn.target);
    }

    pub(super) fn send_bytes(&self, packet: &[u8], to: SocketAddrV4) {
        let to = SocketAddr::from((*to.ip(), 0));
        let sent = net::sendto(&self.socket, packet, SendFlags::empty(), &to);
        sent.expect("the packet is sent");
    }
}

/// A packet socket, which sees all packets of the network namespace.
pub(super) struct Sniffer {
    socket: OwnedFd,
}

impl Sniffer {
    pub(super) fn new() -> Self {
        let socket = net::socket_with(
            AddressFamily::PACKET,
            SocketType::DGRAM, // without the headers of the device
            SocketFlags::NONBLOCK,
            Some(net::eth::IP),
        );
        Self {
            socket: socket.expect("the test runs as root"),
        }
    }

    /// Waits for a SYN to this port.
    pub(super) fn syn_to(&self, port: u16) -> Syn {
        let mut found = None;
        wait::until("a SYN is seen", || {
            let mut packet = [0; 2048];
            while let Ok((length, _)) = net::recv(&self.socket, &mut packet[..], RecvFlags::empty())
            {
                found = Syn::parse(&packet[..length]).filter(|syn| syn.target.port() == port);
                if found.is_some() {
                    return true;
                }
            }
            false
        });
        found.expect("a SYN was seen")
    }
}
