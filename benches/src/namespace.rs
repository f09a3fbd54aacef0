//! The network namespace of a worker. Each worker gets a new one, so that no case inherits ports,
//! routes or tracked connections from another.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::hierarchy;
use crate::load::ORIGIN_ADDRESS;

/// The ports that the kernel may choose for clients: nearly all above 1023, so that no case runs
/// out of them.
const LOCAL_PORTS: &str = "1024 65000";
/// Destinations that would be on another host. Netfilter needs a route to them.
const REDIRECTED_PREFIXES: [&str; 2] = ["10.0.0.0/8", "192.0.2.0/24"];

/// Runs this program in a new network namespace, and returns what it prints.
///
/// The worker ends with this process, and its cgroups are removed when it ends.
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
    hierarchy::remove_leftovers(pid)?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", message.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Configures the namespace of this process: loopback, routes, ports.
///
/// Errors: the namespace is in use. A worker that a person starts must not change the routes of the
/// host.
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

/// Adds the origin's address to the namespace.
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

/// The number of CPUs of the machine, including those that this process may not use.
pub(crate) fn cpus() -> Result<usize> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let lines = text.lines().skip(1);
    Ok(lines.take_while(|line| line.starts_with("cpu")).count())
}

/// Binds this process to the last CPU. The first one has more work of the host.
pub(crate) fn pin_last() -> Result<()> {
    pin(cpus()? - 1)
}

/// Binds this process to the first CPU. The last one belongs to the proxy.
pub(crate) fn pin_first() -> Result<()> {
    pin(0)
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context("bind the process to one CPU")
}

/// Reads a value of `/proc/sys/net` as a number.
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
