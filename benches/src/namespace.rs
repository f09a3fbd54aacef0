//! The network namespace that a worker was started in: fresh, so no case inherits ports, routes or
//! tracked connections of another.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::hierarchy;
use crate::load::ORIGIN_ADDRESS;

/// Everything but the ports of the listeners below 1024, so that no case is short of ports.
const LOCAL_PORTS: &str = "1024 65000";
/// Destinations that lie on another host in real life. Netfilter needs a route to them.
const REDIRECTED_PREFIXES: [&str; 2] = ["10.0.0.0/8", "192.0.2.0/24"];

/// Runs this very program in a fresh network namespace, and returns what it prints.
///
/// It does not outlive us, and nothing of its cgroups outlives it.
pub(crate) fn run(arguments: &[&str]) -> Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    run_program(&program, arguments)
}

/// Runs a `bench` program, of this build or of another commit, as [`run`] does.
pub(crate) fn run_program(program: &Path, arguments: &[&str]) -> Result<String> {
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount"])
        .arg(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run setpriv and unshare (util-linux)")?;
    let pid = child.id();
    let output = child.wait_with_output().context("wait for a worker")?;
    hierarchy::remove_left(pid)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Brings the namespace up.
///
/// Errors: it is not a fresh one. A worker that was started by hand must not change the host's routes.
pub(crate) fn prepare() -> Result<()> {
    let routes = fs::read_to_string("/proc/self/net/route").context("read the routes")?;
    ensure!(
        routes.lines().count() <= 1,
        "this network namespace is in use: start workers by `unshare --net --mount`"
    );
    ip(&["link", "set", "lo", "up"])?;
    for prefix in REDIRECTED_PREFIXES {
        ip(&["route", "add", prefix, "dev", "lo"])?;
    }
    set("ipv4/ip_local_port_range", LOCAL_PORTS)
}

/// Gives the namespace the origin's address, as one of its own.
pub(crate) fn add_origin() -> Result<()> {
    ip(&[
        "address",
        "add",
        &format!("{ORIGIN_ADDRESS}/32"),
        "dev",
        "lo",
    ])?;
    set("ipv4/tcp_tw_reuse", "1")
}

/// How many CPUs the machine has, whatever this process may use of them.
pub(crate) fn cpus() -> Result<usize> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let lines = text.lines().skip(1);
    Ok(lines.take_while(|line| line.starts_with("cpu")).count())
}

/// Keeps this process on the last CPU: the first has more of the host's own work.
pub(crate) fn pin_last() -> Result<()> {
    pin(cpus()? - 1)
}

/// Keeps this process on the first CPU: the last one is the proxy's.
pub(crate) fn pin_first() -> Result<()> {
    pin(0)
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
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
