//! The traffic: clients and the origin that they ask, in one thread of one process.
//!
//! Both ends in one epoll loop: so nobody but the proxy waits for a scheduler, the generator has a CPU
//! for itself, and every byte is compared where it arrives.

pub(crate) mod datagram;
pub(crate) mod exchange;
mod socket;
pub(crate) mod stream;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// The origin's address: one of the namespace's own, as if it lay on another host.
pub(crate) const ORIGIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
/// Where the origin listens for connections.
pub(crate) const ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7776);
/// Where the origin answers datagrams.
pub(crate) const DATAGRAM_ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7777);
/// What still goes on when a measurement is over has so long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Events taken at once.
const EVENTS: usize = 256;

/// Fails when something takes longer than it may.
fn within(deadline: Instant, what: &str, left: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        Instant::now() < deadline,
        "{what}: {left} did not come to an end within {} s",
        DRAIN.as_secs()
    );
    Ok(())
}
