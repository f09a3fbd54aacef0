//! The kernel's own memory.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Between two readings.
const SETTLE: Duration = Duration::from_millis(500);
/// Two readings this close say that the kernel has freed what it was freeing.
const SETTLED_BYTES: f64 = 128.0 * 1024.0;
/// Readings until we go on in any case: another process may never be still.
const READINGS_MAX: u32 = 12;
/// Lines of /proc/meminfo where sockets, flows and tracked connections are. Not the reclaimable
/// ones: those are file names and inodes, which other processes move at any time.
const LINES: [&str; 2] = ["SUnreclaim:", "Percpu:"];

/// Bytes, once they no longer move.
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
