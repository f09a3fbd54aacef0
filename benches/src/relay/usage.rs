//! What processors and memory were used.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::param::clock_ticks_per_second;
use sidetrack_engine::Cgroup;

/// A reading of the processors' time, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    proxy: f64,
    idle: f64,
    at: Instant,
}

/// What was used between two readings, in nanoseconds.
pub(crate) struct CpuUsed {
    /// By the proxy's processes, those that have ended included.
    pub(crate) proxy: f64,
    /// By the whole machine: whatever was not idle. The kernel works for the proxy elsewhere too.
    pub(crate) machine: f64,
}

impl Cpu {
    /// Reads them; the proxy's are those of a cgroup and all below it.
    pub(crate) fn read(proxies: &Cgroup) -> Result<Self> {
        let file = proxies.path().join("cpu.stat");
        let text = fs::read_to_string(&file).context("read the proxy's cpu.stat")?;
        let micros = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let micros: f64 = micros.context("no usage_usec in cpu.stat")?.parse()?;
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let ticks: u64 = (text.lines().next().context("an empty /proc/stat")?)
            .split_whitespace()
            .skip(4)
            .take(2) // idle, iowait
            .filter_map(|value| value.parse::<u64>().ok())
            .sum();
        Ok(Self {
            proxy: micros * 1e3,
            idle: ticks as f64 / clock_ticks_per_second() as f64 * 1e9,
            at: Instant::now(),
        })
    }

    /// From this reading to the later one.
    pub(crate) fn until(self, later: Self) -> Result<CpuUsed> {
        let wall = (later.at - self.at).as_nanos() as f64 * crate::namespace::cpus()? as f64;
        Ok(CpuUsed {
            proxy: later.proxy - self.proxy,
            machine: wall - (later.idle - self.idle),
        })
    }
}

/// Bytes of memory that the proxies' processes have for themselves.
pub(crate) fn user_bytes(proxies: &Cgroup) -> Result<f64> {
    let mut sum = 0;
    for pid in processes(proxies)? {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue; // it has just ended
        };
        sum += text
            .lines()
            .filter(|line| line.starts_with("Private_") || line.starts_with("Swap:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum as f64 * 1024.0)
}

fn processes(cgroup: &Cgroup) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for folder in std::iter::once(cgroup.path().to_owned()).chain(below(cgroup)?) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).context("list processes")?;
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    Ok(pids)
}

fn below(cgroup: &Cgroup) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(cgroup.path()).context("list cgroups")?;
    let folders = entries.flatten().map(|entry| entry.path());
    Ok(folders.filter(|path| path.is_dir()).collect())
}
