//! The memory that the kernel uses for itself.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The time between two readings.
const SETTLE: Duration = Duration::from_millis(500);
/// If two readings differ by less than this, the kernel is no longer freeing memory of earlier
/// work.
const SETTLED_BYTES: f64 = 128.0 * 1024.0;
/// The number of readings after which the last one counts anyway: other processes may never be
/// idle.
const READINGS_MAX: u32 = 12;
/// The lines of /proc/meminfo that include sockets, flows and tracked connections. Reclaimable slab
/// memory is not among them: it holds file names and inodes, which other processes change at any
/// time.
const LINES: [&str; 2] = ["SUnreclaim:", "Percpu:"];

/// Returns the size of this memory in bytes, once it no longer changes.
pub(crate) fn settled() -> Result<f64> {
    let mut last = bytes()?;
    for _ in 0..READINGS_MAX {
        thread::sleep(SETTLE);
        let next = bytes()?;
        if (next - last).abs() <= SETTLED_BYTES {
            return Ok(next);
        }
        last = next;
    }
    Ok(last)
}

fn bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kibibytes: u64 = text
        .lines()
        .filter(|line| LINES.iter().any(|name| line.starts_with(name)))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    Ok(kibibytes as f64 * 1024.0)
}
