//! The IPv6 addresses of UDP flows: a route that makes a prefix local to the host.
//!
//! For IPv4, 127.0.0.0/8 serves; IPv6 has only one loopback address. So each engine adds a prefix
//! (`fd53:54xx:xxxx:xxxx::/64`: "ST" and 40 bits of the engine's id) that is local to the device `lo`. It is
//! never announced, and no packet with such an address leaves the host.
//!
//! A route outlives a process that is killed. So its metric identifies its owner: the id of the engine's
//! process, or 1 if the engine is pinned.

use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::host;

/// Number of bits of a prefix.
const PREFIX_LENGTH: u8 = 64;
/// The upper 24 bits of every engine's prefix.
const PREFIX: u64 = 0xfd_5354;
/// Index of the device `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
const TABLE_LOCAL: u8 = libc::RT_TABLE_LOCAL;
/// The metric of a route that outlives its engine.
const PINNED: u32 = 1;
/// Size of the buffer for netlink replies, in bytes.
const REPLY_SIZE: usize = 65_536;

/// The prefix of an engine's flows in one network namespace. It is removed on drop, unless it is pinned.
pub(crate) struct Network {
    socket: Socket,
    route: RouteMessage,
    pinned: bool,
    /// Cookie of the network namespace.
    pub(crate) cookie: u64,
}

impl Network {
    /// Adds the prefix in the network namespace of the calling thread. It is not an error if it exists.
    ///
    /// Errors: those of the kernel. [`no_ipv6`] recognises those of a kernel without IPv6.
    pub(crate) fn add(engine_id: u64, pinned: bool) -> io::Result<Self> {
        let metric = if pinned { PINNED } else { std::process::id() };
        let network = Self {
            socket: open()?,
            route: route(prefix_of(engine_id), metric),
            cookie: host::netns_cookie(),
            pinned,
        };
        let new = RouteNetlinkMessage::NewRoute(network.route.clone());
        match request(&network.socket, new, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(network),
            added => added.map(|_| network),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.pinned {
            // If it cannot be removed it stays, and `doctor` finds it.
            let _ = remove(&self.socket, self.route.clone());
        }
    }
}

/// The prefixes in this network namespace that belong to engines whose process is gone.
///
/// Errors: those of the kernel.
pub fn left_over() -> io::Result<Vec<Ipv6Addr>> {
    let routes = match open().and_then(|socket| list(&socket)) {
        Err(error) if no_ipv6(&error) => Vec::new(),
        routes => routes?,
    };
    Ok(routes
        .into_iter()
        .filter(|&(_, metric)| metric != PINNED && !is_alive(metric))
        .map(|(prefix, _)| prefix)
        .collect())
}

/// Removes the prefixes that [`left_over`] returns. Returns how many there were.
///
/// Errors: those of the kernel.
pub fn clear_left_over() -> io::Result<usize> {
    let socket = open()?;
    let left: Vec<_> = list(&socket)?
        .into_iter()
        .filter(|&(_, metric)| metric != PINNED && !is_alive(metric))
        .collect();
    for &(prefix, metric) in &left {
        remove(&socket, route(prefix, metric))?;
    }
    Ok(left.len())
}

/// Removes the prefix of a pinned engine. It is not an error if there is none.
pub(crate) fn remove_pinned(engine_id: u64) -> io::Result<()> {
    let removed = open().and_then(|socket| remove(&socket, route(prefix_of(engine_id), PINNED)));
    match removed {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) || no_ipv6(&error) => Ok(()),
        removed => removed,
    }
}

/// Whether an error means that the kernel has no IPv6, or that it is disabled.
pub(crate) fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENODEV | libc::EACCES)
    )
}

/// The prefix of an engine, which is also the first of its addresses.
fn prefix_of(engine_id: u64) -> Ipv6Addr {
    let upper = PREFIX << 40 | engine_id >> 24;
    Ipv6Addr::from(u128::from(upper) << 64)
}

fn is_ours(prefix: Ipv6Addr) -> bool {
    prefix.to_bits() >> 104 == u128::from(PREFIX)
}

fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

fn route(prefix: Ipv6Addr, metric: u32) -> RouteMessage {
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
        RouteAttribute::Destination(RouteAddress::Inet6(prefix)),
        RouteAttribute::Oif(LOOPBACK),
        RouteAttribute::Priority(metric),
    ];
    route
}

fn remove(socket: &Socket, route: RouteMessage) -> io::Result<()> {
    request(socket, RouteNetlinkMessage::DelRoute(route), NLM_F_ACK).map(|_| ())
}

/// Lists the prefixes of all engines, each with its metric.
fn list(socket: &Socket) -> io::Result<Vec<(Ipv6Addr, u32)>> {
    let mut all = RouteMessage::default();
    all.header.address_family = AddressFamily::Inet6;
    let routes = request(socket, RouteNetlinkMessage::GetRoute(all), NLM_F_DUMP)?;
    Ok(routes.iter().filter_map(prefix_and_metric).collect())
}

fn prefix_and_metric(route: &RouteMessage) -> Option<(Ipv6Addr, u32)> {
    let prefix = route.attributes.iter().find_map(|one| match one {
        RouteAttribute::Destination(RouteAddress::Inet6(prefix)) => Some(*prefix),
        _ => None,
    })?;
    let metric = route.attributes.iter().find_map(|one| match one {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    })?;
    let wanted = is_ours(prefix)
        && route.header.destination_prefix_length == PREFIX_LENGTH
        && route.header.kind == RouteType::Local;
    wanted.then_some((prefix, metric))
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request, and reads the reply to its end. Returns the routes in it.
fn request(
    socket: &Socket,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Vec<RouteMessage>> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut routes = Vec::new();
    loop {
        let mut reply = Vec::with_capacity(REPLY_SIZE);
        socket.recv(&mut reply, 0)?;
        let mut rest = reply.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(routes),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    routes.push(route);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_derived_from_the_engine_id_and_recognised() {
        let prefix = prefix_of(0x1122_3344_5566_7788);
        assert_eq!(prefix, "fd53:5411:2233:4455::".parse::<Ipv6Addr>().unwrap());
        assert!(is_ours(prefix) && !is_ours("fd53:5311::".parse().unwrap()));
        let route = route(prefix, 42);
        assert_eq!(prefix_and_metric(&route), Some((prefix, 42)));
    }
}
