//! Resets the clients whose connects a service held when it ended. Otherwise they would wait until they send
//! their SYN again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use etherparse::PacketBuilder;
use libbpf_rs::{MapCore, MapFlags};
use rustix::net::{AddressFamily, SendFlags, sendto};
use sidetrack_abi::kernel::{self, FourTuple, STAGE_COMPLETED, STAGE_PENDED};
use sidetrack_abi::{address, kernel::SLOT_ADDRESS_FIRST};
use zerocopy::FromBytes;

use super::Engine;
use crate::{Error, sys};

/// Hop limit of the packets: the default of Linux. A packet to this host does not lose any.
const HOPS: u8 = 64;

impl Engine {
    /// Sends a RST to each client whose connect the service has held, or completed and not accepted. Later
    /// connects than `until` (CLOCK_MONOTONIC, nanoseconds) are held by another proxy of the service.
    pub(super) fn reset_held(&self, service: u32, until: u64) -> Result<(), Error> {
        if self.ring(service)?.is_none() {
            return Ok(()); // it has never pended
        }
        let held = self.flow_entries()?;
        let held = held.filter(|entry| is_held(entry, service) && entry.flow.connected_at <= until);
        let held: Vec<kernel::FlowEntry> = held.collect();
        if held.is_empty() {
            return Ok(());
        }
        let tuples = self.four_tuples()?;
        let service = self.read_service(service)?;
        let mut sockets = (None, None);
        for entry in &held {
            let client = address::socket_address(entry.flow.local_addr, entry.flow.local_port);
            let port = service.map_or([0; 2], |service| service.port4);
            let target = match tuples.get(&entry.id()) {
                Some(tuple) => address::socket_address(tuple.target_addr, tuple.target_port),
                None => self.slot_address(entry.id(), port),
            };
            // What cannot be sent is left to the client's next SYN, which no listener answers.
            let _ = send_reset(&mut sockets, client, target, entry.sequence);
        }
        Ok(())
    }

    /// The four-tuples of the flows whose target address does not identify their slot.
    fn four_tuples(&self) -> Result<HashMap<u64, FourTuple>, Error> {
        let map = &self.skeleton.maps.sidetrack_four_tuples;
        let mut found = HashMap::new();
        for key in map.keys() {
            let value = map
                .lookup(&key, MapFlags::ANY)
                .map_err(Error::bpf("read the four-tuples"))?;
            let id = value.and_then(|value| u64::read_from_bytes(&value).ok());
            if let (Some(id), Ok(tuple)) = (id, FourTuple::read_from_bytes(&key)) {
                found.insert(id, tuple);
            }
        }
        Ok(found)
    }

    /// The target of a flow whose address identifies its slot.
    fn slot_address(&self, id: u64, port: [u8; 2]) -> SocketAddr {
        let flows_max = u64::from(self.skeleton.maps.sidetrack_flows.max_entries());
        let number = SLOT_ADDRESS_FIRST + (id % flows_max) as u32;
        SocketAddr::new(IpAddr::V4(number.into()), u16::from_be_bytes(port))
    }
}

fn is_held(entry: &kernel::FlowEntry, service: u32) -> bool {
    let last = usize::from(entry.flow.chain_length).checked_sub(1);
    let last = last.and_then(|last| entry.flow.chain.get(last));
    matches!(entry.stage(), STAGE_PENDED | STAGE_COMPLETED)
        && last.is_some_and(|&number| u32::from(number) == service)
}

/// Sends what a host sends whose port is closed (RFC 9293, 3.10.7.1). The sockets, for IPv4 and IPv6, are made
/// when they are first needed.
fn send_reset(
    sockets: &mut (Option<OwnedFd>, Option<OwnedFd>),
    client: SocketAddr,
    target: SocketAddr,
    sequence: u32,
) -> std::io::Result<()> {
    let (socket, family) = match client {
        SocketAddr::V4(_) => (&mut sockets.0, AddressFamily::INET),
        SocketAddr::V6(_) => (&mut sockets.1, AddressFamily::INET6),
    };
    let socket = match socket {
        Some(socket) => socket,
        None => socket.insert(sys::raw_socket(family)?),
    };
    let builder = match (target.ip(), client.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
        _ => return Err(std::io::ErrorKind::Unsupported.into()),
    };
    let mut packet = Vec::new();
    builder
        .tcp(target.port(), client.port(), 0, 0)
        .rst()
        .ack(sequence.wrapping_add(1))
        .write(&mut packet, &[])
        .map_err(std::io::Error::other)?;
    sendto(
        socket,
        &packet,
        SendFlags::empty(),
        &SocketAddr::new(client.ip(), 0),
    )?;
    Ok(())
}
