//! The network namespace that a worker was started in: fresh, so no case inherits ports, routes or
//! tracked connections of another.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Everything but the ports of the listeners below 1024, so that no case is short of ports.
const LOCAL_PORTS: &str = "1024 65000";
/// Destinations that lie on another host in real life. Netfilter needs a route to them.
const REDIRECTED_PREFIXES: [&str; 2] = ["10.0.0.0/8", "192.0.2.0/24"];

/// A command that runs in a fresh network namespace, this very program.
pub(crate) fn command() -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(program);
    Ok(command)
}

/// Brings the namespace up.
pub(crate) fn prepare() -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    for prefix in REDIRECTED_PREFIXES {
        ip(&["route", "add", prefix, "dev", "lo"])?;
    }
    set("ipv4/ip_local_port_range", LOCAL_PORTS)
}

/// Keeps this process on the last CPU: the first has more of the host's own work.
pub(crate) fn pin() -> Result<()> {
    let count = std::thread::available_parallelism().context("count the CPUs")?;
    let mut set = CpuSet::new();
    set.set(count.get() - 1);
    sched_setaffinity(None, &set).context("keep to one CPU")
}

/// One of `/proc/sys/net`, as a number.
pub(crate) fn number(name: &str) -> Result<u64> {
    let path = Path::new("/proc/sys/net").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read net/{name}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("net/{name} is not a number"))
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).with_context(|| format!("set net/{name}"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .context("run ip (iproute2)")?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}
