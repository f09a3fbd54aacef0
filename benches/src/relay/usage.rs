//! The CPU time and the memory that proxies use.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};
use sidetrack_engine::Cgroup;

/// The CPU time up to a moment.
#[derive(Clone, Copy)]
pub(crate) struct CpuReading {
    /// The CPU time of the proxy's cgroup, in nanoseconds.
    proxy: f64,
    /// The CPU time of this process, in nanoseconds.
    generator: f64,
    /// The time that the CPUs of the machine were idle, in nanoseconds.
    idle: f64,
    at: Instant,
}

/// The CPU time between two readings, in nanoseconds.
pub(crate) struct CpuUsed {
    /// The CPU time of the proxy's processes, including those that have ended.
    pub(crate) proxy: f64,
    /// The CPU time of this process: the clients and the origin.
    pub(crate) generator: f64,
    /// All time in which the CPUs of the machine were not idle. The kernel also works for the proxy
    /// outside of its processes.
    pub(crate) machine: f64,
}

impl CpuReading {
    /// Reads the CPU time. That of the proxies is the time of this cgroup and of all below it.
    pub(crate) fn take(proxies: &Cgroup) -> Result<Self> {
        let file = proxies.path().join("cpu.stat");
        let text = fs::read_to_string(&file).context("read the proxy's cpu.stat")?;
        let micros = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let micros: f64 = micros.context("no usage_usec in cpu.stat")?.parse()?;
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let ticks: u64 = (text.lines().next().context("an empty /proc/stat")?)
            .split_whitespace()
            .skip(4)
            .take(2) // idle, iowait
            .filter_map(|value| value.parse::<u64>().ok())
            .sum();
        Ok(Self {
            proxy: micros * 1e3,
            generator: own.tv_sec as f64 * 1e9 + own.tv_nsec as f64,
            idle: ticks as f64 / clock_ticks_per_second() as f64 * 1e9,
            at: Instant::now(),
        })
    }

    /// The CPU time from this reading to the later one.
    pub(crate) fn until(self, later: Self) -> Result<CpuUsed> {
        let wall = (later.at - self.at).as_nanos() as f64 * crate::namespace::cpus()? as f64;
        Ok(CpuUsed {
            proxy: later.proxy - self.proxy,
            generator: later.generator - self.generator,
            machine: wall - (later.idle - self.idle),
        })
    }
}

/// The private memory of the proxies' processes in bytes.
pub(crate) fn user_bytes(proxies: &Cgroup) -> Result<f64> {
    let mut sum = 0;
    for pid in processes(proxies)? {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue; // the process has just ended
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
