//! The IPv6 addresses of flows of datagrams: a route that makes a prefix the host's own.
//!
//! IPv4 has 127.0.0.0/8 for it; IPv6 has one loopback address only. So each engine takes a prefix of
//! its own (`fd53:54xx:xxxx:xxxx::/64`, "ST" and 40 bits of the engine's id) as local to the device
//! `lo`. It is never announced, and no packet with such an address leaves the host.
//!
//! A route outlives a process that is killed. So its metric says whose it is: a process's number, or 1
//! if it is pinned.

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

/// Bits of the prefix.
const PREFIX_LENGTH: u8 = 64;
/// The upper 24 bits of every engine's prefix.
const PREFIX: u64 = 0xfd_5354;
/// The device `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
const TABLE_LOCAL: u8 = libc::RT_TABLE_LOCAL;
/// The metric of a prefix that is to outlive its engine.
const PINNED: u32 = 1;
const ANSWER_SIZE: usize = 65_536;

/// The prefix of an engine's flows in one network namespace. Taken back when dropped, unless kept.
pub(crate) struct Network {
    socket: Socket,
    route: RouteMessage,
    kept: bool,
    /// Of the network namespace.
    pub(crate) cookie: u64,
}

impl Network {
    /// Takes the prefix in the calling thread's network namespace.
    ///
    /// Errors: the kernel's; EAFNOSUPPORT or EOPNOTSUPP where it has no IPv6.
    pub(crate) fn take(engine_id: u64, kept: bool) -> io::Result<Self> {
        let metric = if kept { PINNED } else { std::process::id() };
        let network = Self {
            socket: open()?,
            route: route(prefix_of(engine_id), metric),
            cookie: host::netns_cookie(),
            kept,
        };
        let new = RouteNetlinkMessage::NewRoute(network.route.clone());
        match ask(&network.socket, new, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(network),
            taken => taken.map(|_| network),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed it stays, and `doctor` finds it.
            let _ = remove(&self.socket, self.route.clone());
        }
    }
}

/// The prefixes of engines whose process is gone, in this network namespace.
///
/// Errors: the kernel's.
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

/// Removes them. Returns how many there were.
///
/// Errors: the kernel's.
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

/// Takes back the prefix of an engine whose pins are removed.
pub(crate) fn remove_pinned(engine_id: u64) -> io::Result<()> {
    let removed = open().and_then(|socket| remove(&socket, route(prefix_of(engine_id), PINNED)));
    match removed {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) || no_ipv6(&error) => Ok(()),
        removed => removed,
    }
}

/// The kernel has no IPv6, or is told to have none.
pub(crate) fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENODEV | libc::EACCES)
    )
}

/// The first of an engine's addresses.
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
    ask(socket, RouteNetlinkMessage::DelRoute(route), NLM_F_ACK).map(|_| ())
}

/// Every engine's prefix with its metric.
fn list(socket: &Socket) -> io::Result<Vec<(Ipv6Addr, u32)>> {
    let mut all = RouteMessage::default();
    all.header.address_family = AddressFamily::Inet6;
    let routes = ask(socket, RouteNetlinkMessage::GetRoute(all), NLM_F_DUMP)?;
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

/// Asks, and reads until the answer's end. Returns the routes in it.
fn ask(socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteMessage>> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut routes = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(ANSWER_SIZE);
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
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
    fn an_engines_prefix_is_of_its_id_and_known_again() {
        let prefix = prefix_of(0x1122_3344_5566_7788);
        assert_eq!(prefix, "fd53:5411:2233:4455::".parse::<Ipv6Addr>().unwrap());
        assert!(is_ours(prefix) && !is_ours("fd53:5311::".parse().unwrap()));
        let route = route(prefix, 42);
        assert_eq!(prefix_and_metric(&route), Some((prefix, 42)));
    }
}
