//! The IPv6 addresses of flows of datagrams: a route that makes a prefix the host's own.
//!
//! IPv4 has 127.0.0.0/8 for it; IPv6 has one loopback address only. So each engine takes a prefix of
//! its own (`fd53:54xx:xxxx:xxxx::/64`, "ST" and 40 bits of the engine's id) as local to the device
//! `lo`. It is never announced, and no packet with such an address leaves the host.

use std::io;
use std::net::Ipv6Addr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::host;

/// Bits of the prefix.
const PREFIX_LENGTH: u8 = 64;
/// The upper 24 bits of every engine's prefix.
const PREFIX: u64 = 0xfd_5354;
/// The device `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
const TABLE_LOCAL: u8 = libc::RT_TABLE_LOCAL;
const ANSWER_SIZE: usize = 4096;

/// The prefix of an engine's flows in one network namespace. Taken back when dropped, unless kept.
pub(crate) struct Network {
    socket: Socket,
    prefix: Ipv6Addr,
    /// Of the network namespace.
    pub(crate) cookie: u64,
    kept: bool,
}

impl Network {
    /// Takes the prefix in the calling thread's network namespace.
    ///
    /// Errors: the kernel's; EAFNOSUPPORT or EOPNOTSUPP where it has no IPv6.
    pub(crate) fn take(engine_id: u64, kept: bool) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let network = Self {
            socket,
            prefix: prefix_of(engine_id),
            cookie: host::netns_cookie(),
            kept,
        };
        let route = RouteNetlinkMessage::NewRoute(network.route());
        match network.ask(route, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(network),
            taken => taken.map(|()| network),
        }
    }

    fn route(&self) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet6,
            destination_prefix_length: PREFIX_LENGTH,
            table: TABLE_LOCAL,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        route.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(self.prefix)),
            RouteAttribute::Oif(LOOPBACK),
        ];
        route
    }

    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER_SIZE);
        self.socket.recv(&mut answer, 0)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::other(error.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed it stays, and `doctor` finds it.
            let _ = self.ask(RouteNetlinkMessage::DelRoute(self.route()), 0);
        }
    }
}

/// The first of an engine's addresses.
pub(crate) fn prefix_of(engine_id: u64) -> Ipv6Addr {
    let upper = PREFIX << 40 | engine_id >> 24;
    Ipv6Addr::from(u128::from(upper) << 64)
}
