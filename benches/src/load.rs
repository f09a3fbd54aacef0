//! The traffic: the clients and the origin, in one thread of one process.
//!
//! Both sides run in the same epoll loop. So only the proxy has to wait for the scheduler, the
//! generator has a CPU for itself, and every byte is compared as it arrives.

pub(crate) mod datagram;
pub(crate) mod exchange;
pub(crate) mod refused;
mod socket;
pub(crate) mod stream;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

pub(crate) use self::socket::connect;

/// The origin's address. The namespace has it on loopback, and it stands for an address of another
/// host.
pub(crate) const ORIGIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
/// The address on which the origin accepts connections.
pub(crate) const ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7776);
/// An address of the origin on which nobody listens. No client can have this port: a client that has the
/// port to which it connects is connected to itself.
pub(crate) const REFUSED: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 9);
/// An address from which no answer comes: it is routed to loopback, and nobody has it.
pub(crate) const BLACK_HOLE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 2), 7776);
/// The address on which the origin answers datagrams.
pub(crate) const DATAGRAM_ORIGIN: SocketAddrV4 = SocketAddrV4::new(ORIGIN_ADDRESS, 7777);
/// The request of a client: HTTP, which an inspecting proxy recognises.
pub(crate) const REQUEST: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: origin.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
/// How long connections may take to end after a measurement.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// The most events that one wait returns.
const EVENTS: usize = 256;

/// Sends these bytes, unless the connect of this client waits.
pub(crate) fn send_if_connected(mut client: &TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    match client.write(bytes) {
        sent if socket::would_block(&sent) => Ok(()),
        sent => Ok(sent.map(drop)?),
    }
}

/// Fails if the deadline has passed; `left` of `what` are still not done.
fn ensure_before(deadline: Instant, what: &str, left: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        Instant::now() < deadline,
        "{what}: {left} did not end within {} s",
        DRAIN_MAX.as_secs()
    );
    Ok(())
}
