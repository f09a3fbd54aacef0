//! The traffic: the clients and the origin, in one thread of one process.
//!
//! Both sides run in the same epoll loop. So only the proxy has to wait for the scheduler, the
//! generator has a CPU for itself, and every byte is compared as it arrives.

pub(crate) mod datagram;
pub(crate) mod exchange;
mod socket;
pub(crate) mod stream;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// The origin's address. The namespace has it on loopback, and it stands for an address of another
/// host.
pub(crate) const ORIGIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
/// The address on which the origin accepts connections.
pub(crate) const ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7776);
/// The address on which the origin answers datagrams.
pub(crate) const DATAGRAM_ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7777);
/// How long connections may take to end after a measurement.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// The most events that one wait returns.
const EVENTS: usize = 256;

/// Fails if the deadline has passed; `left` of `what` are still not done.
fn ensure_before(deadline: Instant, what: &str, left: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        Instant::now() < deadline,
        "{what}: {left} did not end within {} s",
        DRAIN_MAX.as_secs()
    );
    Ok(())
}
