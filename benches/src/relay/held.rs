//! Connects of other programs that go through proxies to an address from which no answer comes.
//! Proxies that pend hold them; proxies that accept keep a connection open for each.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidetrack_engine::Engine;
use sidetrack_engine::counter::Counter;

use super::contestant::NEIGHBOURS;
use crate::load::{BLACK_HOLE, REQUEST, connect, send_if_connected};

/// The number of clients. Each has a flow at each service.
const CLIENTS: u32 = 32;
/// How long it may take until the last service has all flows.
const START_MAX: Duration = Duration::from_secs(10);
/// The time between two looks at the counters.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Clients whose connects have come as far as they come. They close on drop.
pub(super) struct HeldClients {
    _clients: Vec<TcpStream>,
}

/// The number of flows of all clients at all services.
pub(super) fn flows() -> u64 {
    u64::from(CLIENTS) * u64::from(NEIGHBOURS)
}

impl HeldClients {
    /// Connects from this process's cgroup, and waits until the last service of the chain has seen all
    /// connects.
    pub(super) fn connect(engine: &Engine) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(BLACK_HOLE)?;
            // A proxy that accepts may wait for the first bytes before it connects onward.
            send_if_connected(&client, REQUEST)?;
            clients.push(client);
        }
        let deadline = Instant::now() + START_MAX;
        loop {
            let seen = engine.counters()?.value(Counter::Redirected);
            if seen >= flows() {
                return Ok(Self { _clients: clients });
            }
            ensure!(
                Instant::now() < deadline,
                "only {seen} of {} flows of other programs are at the proxies",
                flows()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }
}
