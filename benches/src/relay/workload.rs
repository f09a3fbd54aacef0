//! What is asked of a contestant, and what is found.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::arena::Arena;
use super::usage;
use crate::kernel_memory;
use crate::load::datagram::Echo;
use crate::load::exchange::{Arrivals, Exchange};
use crate::load::stream::{Directions, Streams};

/// What was measured, by the name of the measure.
pub(crate) type Reading = BTreeMap<String, f64>;

/// Traffic before the counted part: caches, pools and the proxy's memory are warm then.
const WARM_UP: Duration = Duration::from_millis(200);
const GIB: f64 = (1_u64 << 30) as f64;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// So many clients, each exchange in a connection of its own.
    Closing(u32),
    /// So many clients, each with one connection for all its exchanges.
    Keeping(u32),
    /// So many connections a second, each with one exchange.
    Rated(u32),
    /// So many streams from the clients to the origin.
    Up(u32),
    /// From the origin to the clients.
    Down(u32),
    /// Both ways at once.
    Both(u32),
    /// So many connections, idle after one exchange each.
    Idle(u32),
    /// Questions and answers of datagrams in one flow.
    Ask,
    /// Each question in a flow of its own.
    AskFresh,
    /// Datagrams of so many bytes there and back, as many as go through.
    Flood(u32),
}

impl Workload {
    /// Runs it for so long.
    pub(crate) fn run(self, arena: &Arena, time: Duration) -> Result<Reading> {
        match self {
            Self::Closing(clients) => {
                exchange(arena, Arrivals::Closed(clients as usize), false, time)
            }
            Self::Keeping(clients) => {
                exchange(arena, Arrivals::Closed(clients as usize), true, time)
            }
            Self::Rated(rate) => exchange(arena, Arrivals::Open(rate.into()), false, time),
            Self::Up(streams) => stream(arena, streams, (true, false), time),
            Self::Down(streams) => stream(arena, streams, (false, true), time),
            Self::Both(streams) => stream(arena, streams, (true, true), time),
            Self::Idle(connections) => idle(arena, connections),
            Self::Ask => ask(arena, false, time),
            Self::AskFresh => ask(arena, true, time),
            Self::Flood(size) => flood(arena, size, time),
        }
    }
}

fn exchange(arena: &Arena, arrivals: Arrivals, keep: bool, time: Duration) -> Result<Reading> {
    let mut exchange = arena.as_origin(|| Exchange::new(arena.destination))?;
    let warm_up = match arrivals {
        Arrivals::Open(_) => Arrivals::Closed(4),
        closed @ Arrivals::Closed(_) => closed,
    };
    exchange.run(warm_up, keep, WARM_UP)?;
    let before = arena.cpu()?;
    let outcome = exchange.run(arrivals, keep, time)?;
    let used = before.until(arena.cpu()?)?;
    arena.check(exchange.made, exchange.accepted)?;
    ensure!(outcome.exchanges > 0, "nothing went through");
    // Those that were under way at the end were served too.
    let served = match keep {
        true => outcome.exchanges,
        false => outcome.connections,
    } as f64;
    let percentile = |percent: f64| {
        let last = (outcome.times.len() - 1) as f64;
        outcome.times[(last * percent / 100.0) as usize] as f64
    };
    Ok(Reading::from([
        (
            "rate".to_owned(),
            outcome.exchanges as f64 / outcome.elapsed.as_secs_f64(),
        ),
        ("cpu".to_owned(), used.proxy / served),
        ("machine".to_owned(), used.machine / served),
        ("p50".to_owned(), percentile(50.0)),
        ("p99".to_owned(), percentile(99.0)),
        ("p999".to_owned(), percentile(99.9)),
    ]))
}

fn stream(arena: &Arena, count: u32, (up, down): (bool, bool), time: Duration) -> Result<Reading> {
    let mut streams = arena.as_origin(|| Streams::new(Directions { up, down }))?;
    streams.open(count as usize, arena.destination)?;
    streams.run(WARM_UP)?;
    let (before, begun) = (arena.cpu()?, streams.received);
    let clock = std::time::Instant::now();
    streams.run(time)?;
    let (elapsed, bytes) = (clock.elapsed(), (streams.received - begun) as f64);
    let used = before.until(arena.cpu()?)?;
    streams.finish()?;
    arena.check(count.into(), streams.accepted)?;
    ensure!(bytes > 0.0, "nothing went through");
    Ok(Reading::from([
        ("gbit".to_owned(), bytes * 8.0 / 1e9 / elapsed.as_secs_f64()),
        ("cpu".to_owned(), used.proxy / (bytes / GIB)),
        ("machine".to_owned(), used.machine / (bytes / GIB)),
    ]))
}

fn idle(arena: &Arena, connections: u32) -> Result<Reading> {
    let mut exchange = arena.as_origin(|| Exchange::new(arena.destination))?;
    exchange.run(Arrivals::Closed(16), false, WARM_UP)?;
    let warm = exchange.made;
    let kernel = kernel_memory::settled()?;
    let user = usage::user_bytes(arena.proxies())?;
    exchange.hold(connections as usize)?;
    let count = (exchange.made - warm) as f64;
    let kernel = kernel_memory::settled()? - kernel;
    let user = usage::user_bytes(arena.proxies())? - user;
    arena.check(exchange.made, exchange.accepted)?;
    Ok(Reading::from([
        ("user".to_owned(), user / count),
        ("kernel".to_owned(), kernel / count),
    ]))
}

fn ask(arena: &Arena, fresh: bool, time: Duration) -> Result<Reading> {
    let mut echo = arena.as_origin(|| Echo::new(64))?;
    echo.ask(fresh, WARM_UP)?;
    let before = arena.cpu()?;
    let outcome = echo.ask(fresh, time)?;
    let used = before.until(arena.cpu()?)?;
    arena.check_flows(echo.flows)?;
    ensure!(!outcome.times.is_empty(), "nothing was answered");
    let percentile =
        |percent: usize| outcome.times[(outcome.times.len() - 1) * percent / 100] as f64;
    Ok(Reading::from([
        ("p50".to_owned(), percentile(50)),
        ("p99".to_owned(), percentile(99)),
        ("cpu".to_owned(), used.proxy / outcome.answered as f64),
        ("lost".to_owned(), outcome.lost as f64),
        ("flows".to_owned(), outcome.flows as f64),
    ]))
}

fn flood(arena: &Arena, size: u32, time: Duration) -> Result<Reading> {
    let mut echo = arena.as_origin(|| Echo::new(size as usize))?;
    echo.flood(WARM_UP)?;
    let before = arena.cpu()?;
    let outcome = echo.flood(time)?;
    let used = before.until(arena.cpu()?)?;
    arena.check_flows(echo.flows)?;
    // Each question and each answer is a datagram that was relayed.
    let datagrams = 2.0 * outcome.answered as f64;
    ensure!(datagrams > 0.0, "nothing was answered");
    Ok(Reading::from([
        ("rate".to_owned(), datagrams / outcome.elapsed.as_secs_f64()),
        ("cpu".to_owned(), used.proxy / datagrams),
        ("machine".to_owned(), used.machine / datagrams),
        ("lost".to_owned(), outcome.lost as f64),
    ]))
}
