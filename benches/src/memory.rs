//! What an idle connection takes in the kernel.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::round;
use crate::way::Way;

/// Descriptors kept free for all but the connections.
const DESCRIPTORS_SPARE: u64 = 512;
/// Connections before the first reading.
const WARM_UP: u32 = 200;
/// Between two readings.
const SETTLE: Duration = Duration::from_millis(500);
/// Two readings this close say that the kernel has freed what it was freeing.
const SETTLED_BYTES: f64 = 128.0 * 1024.0;
/// Readings until we go on in any case: another process may never be still.
const READINGS_MAX: u32 = 12;
/// Lines of /proc/meminfo where sockets, flows and tracked connections are. Not the reclaimable
/// ones: those are file names and inodes, which other processes move at any time.
const LINES: [&str; 2] = ["SUnreclaim:", "Percpu:"];

/// What was held.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Connections: what was asked for, or what the limit on descriptors allows.
    pub(crate) connections: u32,
    /// Kernel memory for each, both sockets included.
    pub(crate) bytes: f64,
}

/// Holds so many connections open at once, and reads the kernel's memory before and after.
pub(crate) fn hold(way: &dyn Way, wanted: u32) -> Result<Held> {
    let connections = wanted.min(descriptors() / 2);
    round::run(way, 0..WARM_UP)?;
    let before = settled_bytes()?;
    let held = (WARM_UP..WARM_UP + connections)
        .map(|number| round::open(way, number))
        .collect::<Result<Vec<_>>>()?;
    let after = settled_bytes()?;
    way.check((WARM_UP + connections).into())?;
    Ok(Held {
        connections: held.len() as u32,
        bytes: (after - before) / f64::from(connections),
    })
}

fn settled_bytes() -> Result<f64> {
    let mut last = kernel_bytes()?;
    for _ in 0..READINGS_MAX {
        thread::sleep(SETTLE);
        let next = kernel_bytes()?;
        if (next - last).abs() <= SETTLED_BYTES {
            return Ok(next);
        }
        last = next;
    }
    Ok(last)
}

fn descriptors() -> u32 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let usable = limit.saturating_sub(DESCRIPTORS_SPARE);
    u32::try_from(usable).unwrap_or(u32::MAX)
}

fn kernel_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kibibytes: u64 = text
        .lines()
        .filter(|line| LINES.iter().any(|name| line.starts_with(name)))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    Ok(kibibytes as f64 * 1024.0)
}
