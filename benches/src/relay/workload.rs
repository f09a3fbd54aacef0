//! The kinds of traffic, and what is measured of each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::setup::RelaySetup;
use super::usage;
use crate::kernel_memory;
use crate::load::datagram::Echo;
use crate::load::exchange::{Arrivals, Exchange};
use crate::load::refused::Refusals;
use crate::load::stream::{Directions, Streams};

/// The values of one round, by the name of the measure. Times are in nanoseconds.
pub(crate) type Reading = BTreeMap<String, f64>;

/// How long traffic runs before the measurement, so that caches, pools and the proxy's memory are
/// warm.
const WARM_UP: Duration = Duration::from_millis(200);
const GIB: f64 = (1_u64 << 30) as f64;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// A closed loop with this number of clients; each exchange uses a new connection.
    Closing(u32),
    /// A closed loop with this number of clients; each client uses one connection for all its
    /// exchanges.
    Keeping(u32),
    /// An open loop with this number of connections per second; each connection has one exchange.
    Rated(u32),
    /// This number of streams from the clients to the origin.
    Up(u32),
    /// This number of streams from the origin to the clients.
    Down(u32),
    /// This number of streams, with bytes in both directions.
    Both(u32),
    /// This number of connections that are idle after one exchange each.
    Idle(u32),
    /// Datagrams: one request and its response after another, in one flow.
    Ask,
    /// Datagrams: one request and its response after another, each in a new flow.
    AskFresh,
    /// Datagrams with this number of bytes to the origin and back, as many as go through.
    Flood(u32),
    /// Connects, one after another, to a port on which nobody listens.
    Refused,
}

impl Workload {
    /// Generates this traffic for this time, and measures it.
    pub(crate) fn run(self, setup: &RelaySetup, time: Duration) -> Result<Reading> {
        match self {
            Self::Closing(clients) => {
                exchange(setup, Arrivals::Closed(clients as usize), false, time)
            }
            Self::Keeping(clients) => {
                exchange(setup, Arrivals::Closed(clients as usize), true, time)
            }
            Self::Rated(rate) => exchange(setup, Arrivals::Open(rate.into()), false, time),
            Self::Up(streams) => stream(setup, streams, (true, false), time),
            Self::Down(streams) => stream(setup, streams, (false, true), time),
            Self::Both(streams) => stream(setup, streams, (true, true), time),
            Self::Idle(connections) => idle(setup, connections),
            Self::Ask => ask(setup, false, time),
            Self::AskFresh => ask(setup, true, time),
            Self::Flood(size) => flood(setup, size, time),
            Self::Refused => refused(setup, time),
        }
    }
}

fn exchange(setup: &RelaySetup, arrivals: Arrivals, keep: bool, time: Duration) -> Result<Reading> {
    let mut exchange = setup.as_origin(|| Exchange::new(setup.destination))?;
    let warm_up = match arrivals {
        Arrivals::Open(_) => Arrivals::Closed(4),
        closed @ Arrivals::Closed(_) => closed,
    };
    exchange.run(warm_up, keep, WARM_UP)?;
    let before = setup.cpu()?;
    let result = exchange.run(arrivals, keep, time)?;
    let used = before.until(setup.cpu()?)?;
    setup.check(exchange.made, exchange.accepted)?;
    ensure!(result.exchanges > 0, "nothing went through");
    // Connections that were open at the end cost CPU time as well.
    let served = match keep {
        true => result.exchanges,
        false => result.connections,
    } as f64;
    let percentile = |percent| percentile(&result.times, percent);
    Ok(Reading::from([
        (
            "rate".to_owned(),
            result.exchanges as f64 / result.elapsed.as_secs_f64(),
        ),
        ("cpu".to_owned(), used.proxy / served),
        ("machine".to_owned(), used.machine / served),
        ("total".to_owned(), (used.proxy + used.generator) / served),
        ("p50".to_owned(), percentile(50.0)),
        ("p99".to_owned(), percentile(99.0)),
        ("p999".to_owned(), percentile(99.9)),
        ("first".to_owned(), self::percentile(&result.firsts, 50.0)),
    ]))
}

/// The value that `percent` of a hundred values do not exceed. `sorted` is ascending, and not empty.
fn percentile(sorted: &[u64], percent: f64) -> f64 {
    let last = (sorted.len() - 1) as f64;
    sorted[(last * percent / 100.0) as usize] as f64
}

fn stream(
    setup: &RelaySetup,
    count: u32,
    (up, down): (bool, bool),
    time: Duration,
) -> Result<Reading> {
    let mut streams = setup.as_origin(|| Streams::new(Directions { up, down }))?;
    streams.open(count as usize, setup.destination)?;
    streams.run(WARM_UP)?;
    let (before, begun) = (setup.cpu()?, streams.received);
    let clock = std::time::Instant::now();
    streams.run(time)?;
    let (elapsed, bytes) = (clock.elapsed(), (streams.received - begun) as f64);
    let used = before.until(setup.cpu()?)?;
    streams.finish()?;
    setup.check(count.into(), streams.accepted)?;
    ensure!(bytes > 0.0, "nothing went through");
    Ok(Reading::from([
        ("gbit".to_owned(), bytes * 8.0 / 1e9 / elapsed.as_secs_f64()),
        ("cpu".to_owned(), used.proxy / (bytes / GIB)),
        ("machine".to_owned(), used.machine / (bytes / GIB)),
        (
            "total".to_owned(),
            (used.proxy + used.generator) / (bytes / GIB),
        ),
    ]))
}

fn idle(setup: &RelaySetup, connections: u32) -> Result<Reading> {
    let mut exchange = setup.as_origin(|| Exchange::new(setup.destination))?;
    exchange.run(Arrivals::Closed(16), false, WARM_UP)?;
    let warm = exchange.made;
    let kernel = kernel_memory::settled()?;
    let user = usage::user_bytes(setup.proxy_cgroup())?;
    exchange.hold(connections as usize)?;
    let count = (exchange.made - warm) as f64;
    let kernel = kernel_memory::settled()? - kernel;
    let user = usage::user_bytes(setup.proxy_cgroup())? - user;
    setup.check(exchange.made, exchange.accepted)?;
    Ok(Reading::from([
        ("user".to_owned(), user / count),
        ("kernel".to_owned(), kernel / count),
    ]))
}

fn ask(setup: &RelaySetup, fresh: bool, time: Duration) -> Result<Reading> {
    let mut echo = setup.as_origin(|| Echo::new(64))?;
    echo.ask(fresh, WARM_UP)?;
    let before = setup.cpu()?;
    let result = echo.ask(fresh, time)?;
    let used = before.until(setup.cpu()?)?;
    setup.check_flows(echo.flows)?;
    ensure!(!result.times.is_empty(), "nothing was answered");
    Ok(Reading::from([
        ("p50".to_owned(), percentile(&result.times, 50.0)),
        ("p99".to_owned(), percentile(&result.times, 99.0)),
        ("cpu".to_owned(), used.proxy / result.answered as f64),
        ("lost".to_owned(), result.lost as f64),
        ("flows".to_owned(), result.flows as f64),
    ]))
}

fn flood(setup: &RelaySetup, size: u32, time: Duration) -> Result<Reading> {
    let mut echo = setup.as_origin(|| Echo::new(size as usize))?;
    echo.flood(WARM_UP)?;
    let before = setup.cpu()?;
    let result = echo.flood(time)?;
    let used = before.until(setup.cpu()?)?;
    setup.check_flows(echo.flows)?;
    // Each request and each response is a datagram that was relayed.
    let datagrams = 2.0 * result.answered as f64;
    ensure!(datagrams > 0.0, "nothing was answered");
    Ok(Reading::from([
        ("rate".to_owned(), datagrams / result.elapsed.as_secs_f64()),
        ("cpu".to_owned(), used.proxy / datagrams),
        ("machine".to_owned(), used.machine / datagrams),
        ("lost".to_owned(), result.lost as f64),
    ]))
}

fn refused(setup: &RelaySetup, time: Duration) -> Result<Reading> {
    let mut refusals = Refusals::new(setup.accepts_first());
    refusals.run(WARM_UP)?;
    let before = setup.cpu()?;
    let times = refusals.run(time)?;
    let used = before.until(setup.cpu()?)?;
    setup.check_refused(refusals.made)?;
    ensure!(!times.is_empty(), "nothing was refused");
    Ok(Reading::from([
        ("p50".to_owned(), percentile(&times, 50.0)),
        ("p99".to_owned(), percentile(&times, 99.0)),
        ("cpu".to_owned(), used.proxy / times.len() as f64),
    ]))
}
