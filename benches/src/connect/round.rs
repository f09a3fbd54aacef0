//! A round: connections one after another, each with the time of its steps.

use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::connect::way::{self, Way};
use crate::statistics::{mean, percentile};

/// What a round found.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    /// socket and connect.
    pub(crate) connect: Span,
    /// socket, connect, accept, query.
    pub(crate) asked: Span,
    /// The same, with both ends closed.
    pub(crate) whole: Span,
    /// The query alone.
    pub(crate) query: Span,
    /// The process's own time on the CPU, for each connection from socket to close.
    pub(crate) cpu_ns: f64,
}

/// A part of a connection's life, over all of a round's connections; nanoseconds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Span {
    /// On average.
    pub(crate) mean: f64,
    /// Half of them took less.
    pub(crate) p50: f64,
    /// 99 of 100 took less.
    pub(crate) p99: f64,
}

/// When one connection's steps were done.
struct Steps {
    begin: Instant,
    connected: Instant,
    accepted: Instant,
    asked: Instant,
    closed: Instant,
}

/// Makes the connections of these numbers.
///
/// Both ends are in this thread: on loopback, connect returns when the connection is in the
/// listener's queue, so nobody waits for a scheduler.
pub(crate) fn run(way: &dyn Way, numbers: Range<u32>) -> Result<Round> {
    let mut steps = Vec::with_capacity(numbers.len());
    let before = cpu_time();
    for number in numbers {
        steps.push(connection(way, number)?);
    }
    let cpu = cpu_time().saturating_sub(before);
    Ok(Round {
        connect: span(&steps, |one| one.connected - one.begin),
        asked: span(&steps, |one| one.asked - one.begin),
        whole: span(&steps, |one| one.closed - one.begin),
        query: span(&steps, |one| one.asked - one.accepted),
        cpu_ns: cpu.as_nanos() as f64 / steps.len() as f64,
    })
}

/// Makes one connection, verified, and keeps both ends.
pub(crate) fn open(way: &dyn Way, number: u32) -> Result<(TcpStream, TcpStream)> {
    let destination = way.destination(number);
    let client = TcpStream::connect(destination).context("connect")?;
    let (accepted, _) = way.listener().accept().context("accept")?;
    let told = way.query(&accepted)?;
    ensure!(
        told.is_none_or(|told| told == destination.into()),
        "a connection to {destination} was said to go to {told:?}"
    );
    Ok((client, accepted))
}

fn connection(way: &dyn Way, number: u32) -> Result<Steps> {
    let destination = way.destination(number);
    let begin = Instant::now();
    let client = TcpStream::connect(destination).context("connect")?;
    let connected = Instant::now();
    let (stream, _) = way.listener().accept().context("accept")?;
    let accepted = Instant::now();
    let told = way.query(&stream)?;
    let asked = Instant::now();
    way::close(client)?;
    drop(stream);
    let closed = Instant::now();
    ensure!(
        told.is_none_or(|told| told == destination.into()),
        "a connection to {destination} was said to go to {told:?}"
    );
    Ok(Steps {
        begin,
        connected,
        accepted,
        asked,
        closed,
    })
}

fn span(steps: &[Steps], of: impl Fn(&Steps) -> Duration) -> Span {
    let mut times: Vec<f64> = steps.iter().map(|one| of(one).as_nanos() as f64).collect();
    times.sort_by(f64::total_cmp);
    Span {
        mean: mean(&times),
        p50: percentile(&times, 50),
        p99: percentile(&times, 99),
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
