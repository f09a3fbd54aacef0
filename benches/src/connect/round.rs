//! A round of one case: connections one after another, and the duration of their steps.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::connect::setup::{self, ConnectSetup};
use crate::statistics::{mean, percentile};

/// What a round measured.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ConnectRound {
    /// `socket` and `connect`.
    pub(crate) connect: Durations,
    /// `socket`, `connect`, `accept` and the query.
    pub(crate) asked: Durations,
    /// From `socket` until both sides are closed.
    pub(crate) whole: Durations,
    /// The query alone.
    pub(crate) query: Durations,
    /// The CPU time of the process for one connection, from `socket` until both sides are closed,
    /// in nanoseconds.
    pub(crate) cpu_ns: f64,
}

/// The durations of a step over all connections of a round, in nanoseconds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Durations {
    /// The mean.
    pub(crate) mean: f64,
    /// The median.
    pub(crate) p50: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
}

/// When each step of a connection was complete.
struct StepTimes {
    begin: Instant,
    connected: Instant,
    accepted: Instant,
    queried: Instant,
    closed: Instant,
}

/// Makes the connections with these numbers, and measures them.
///
/// One thread is both client and server. On loopback, `connect` returns when the connection is in
/// the listener's backlog, so the thread never waits for the scheduler.
pub(crate) fn run(setup: &dyn ConnectSetup, numbers: Range<u32>) -> Result<ConnectRound> {
    let mut steps = Vec::with_capacity(numbers.len());
    let before = cpu_time();
    for number in numbers {
        steps.push(connection(setup, number)?);
    }
    let cpu = cpu_time().saturating_sub(before);
    Ok(ConnectRound {
        connect: durations(&steps, |times| times.connected - times.begin),
        asked: durations(&steps, |times| times.queried - times.begin),
        whole: durations(&steps, |times| times.closed - times.begin),
        query: durations(&steps, |times| times.queried - times.accepted),
        cpu_ns: cpu.as_nanos() as f64 / steps.len() as f64,
    })
}

/// Makes one connection, verifies its original destination, and returns the client's and the
/// accepted socket.
pub(crate) fn open(setup: &dyn ConnectSetup, number: u32) -> Result<(TcpStream, TcpStream)> {
    let destination = setup.destination(number);
    let client = TcpStream::connect(destination).context("connect")?;
    let (accepted, _) = setup.listener().accept().context("accept")?;
    verify(destination, setup.query(&accepted)?)?;
    Ok((client, accepted))
}

fn connection(setup: &dyn ConnectSetup, number: u32) -> Result<StepTimes> {
    let destination = setup.destination(number);
    let begin = Instant::now();
    let client = TcpStream::connect(destination).context("connect")?;
    let connected = Instant::now();
    let (stream, _) = setup.listener().accept().context("accept")?;
    let accepted = Instant::now();
    let original = setup.query(&stream)?;
    let queried = Instant::now();
    setup::close(client)?;
    drop(stream);
    let closed = Instant::now();
    verify(destination, original)?;
    Ok(StepTimes {
        begin,
        connected,
        accepted,
        queried,
        closed,
    })
}

/// Fails if the query returned another original destination than the client connected to.
fn verify(destination: SocketAddrV4, original: Option<SocketAddr>) -> Result<()> {
    ensure!(
        original.is_none_or(|original| original == destination.into()),
        "the query of a connection to {destination} returned {original:?}"
    );
    Ok(())
}

fn durations(steps: &[StepTimes], of: impl Fn(&StepTimes) -> Duration) -> Durations {
    let mut times: Vec<f64> = steps
        .iter()
        .map(|times| of(times).as_nanos() as f64)
        .collect();
    times.sort_by(f64::total_cmp);
    Durations {
        mean: mean(&times),
        p50: percentile(&times, 50),
        p99: percentile(&times, 99),
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
