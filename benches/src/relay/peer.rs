//! Proxies, each a process (or several) in a cgroup of its own and on a CPU of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sidetrack_engine::Cgroup;
use tempfile::TempDir;

use super::contestant::Contestant;

/// The group that nftables' rule leaves alone.
const GROUP: &str = "13";
/// How long a proxy may take until it listens. mitmproxy is Python.
const START_MAX: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// Where `make bench` puts what Debian does not have in a version of use.
pub(crate) const MITMDUMP: &str = "target/mitmproxy/bin/mitmdump";

/// A proxy that runs; it ends with this.
pub(super) struct Peer {
    child: Child,
    folder: TempDir,
}

/// The command of a contestant's proxy; none if it has none.
///
/// Errors: the machine does not have it.
pub(super) fn command(contestant: Contestant, folder: &Path) -> Result<Option<Command>> {
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let haproxy = include_str!("../../peers/haproxy.cfg");
    let mut command;
    match contestant {
        Contestant::Direct | Contestant::Sidetrack | Contestant::Chain(_) => return Ok(None),
        Contestant::HaproxySplice | Contestant::HaproxyBehind => {
            command = Command::new(installed("haproxy")?);
            command.arg("-f").arg(write("haproxy.cfg", haproxy)?);
        }
        Contestant::Haproxy => {
            let without: String = haproxy
                .lines()
                .filter(|line| line.trim() != "option splice-auto")
                .map(|line| line.to_owned() + "\n")
                .collect();
            command = Command::new(installed("haproxy")?);
            command.arg("-f").arg(write("haproxy.cfg", &without)?);
        }
        Contestant::Nginx => {
            let config = include_str!("../../peers/nginx.conf");
            command = Command::new(installed("nginx")?);
            command.arg("-c").arg(write("nginx.conf", config)?);
            command.arg("-p").arg(folder);
        }
        Contestant::Redsocks => {
            let config = include_str!("../../peers/redsocks.conf");
            let (redsocks, microsocks) = (installed("redsocks")?, installed("microsocks")?);
            let config = write("redsocks.conf", config)?;
            command = Command::new("sh");
            command
                .arg("-c")
                .arg("\"$0\" -i 127.0.0.1 -p 1080 & exec \"$1\" -c \"$2\"");
            command.args([microsocks, redsocks, config]);
        }
        Contestant::Socat => {
            installed("socat")?;
            let script = include_str!("../../peers/socat.sh");
            command = Command::new("sh");
            command.arg(write("socat.sh", script)?);
        }
        Contestant::Mitmproxy => {
            write("config.yaml", include_str!("../../peers/mitmproxy.yaml"))?;
            command = Command::new(installed(MITMDUMP)?);
            command.arg("--quiet").arg("--set");
            command.arg(format!("confdir={}", folder.display()));
        }
        Contestant::TwoHops | Contestant::NftMinimal => {
            command = Command::new(std::env::current_exe().context("find this program")?);
            let kind = match contestant {
                Contestant::TwoHops => "connections",
                _ => "datagrams",
            };
            command.args(["minimal-relay", kind]);
        }
    }
    Ok(Some(command))
}

/// Where a program is.
fn installed(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&folders).chain(sbin);
    if name.contains('/') {
        ensure!(Path::new(name).exists(), "{name} is not installed");
        return Ok(PathBuf::from(name));
    }
    places
        .find(|folder| folder.join(name).exists())
        .map(|folder| folder.join(name))
        .with_context(|| format!("{name} is not installed"))
}

impl Peer {
    /// Starts a proxy in a cgroup, on the last CPU. It does not outlive this process.
    pub(super) fn start(command: &Command, folder: TempDir, cgroup: &Cgroup) -> Result<Self> {
        let cpu = crate::namespace::cpus()?;
        let mut launcher = Command::new("sh");
        launcher
            .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""])
            .arg(cgroup.path())
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--regid",
                GROUP,
                "--clear-groups",
            ])
            .args(["taskset", "--cpu-list", &(cpu - 1).to_string()])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).context("make a log")?);
        for (name, value) in command.get_envs() {
            launcher.env(name, value.unwrap_or_default());
        }
        let child = launcher.spawn().context("start a proxy")?;
        Ok(Self { child, folder })
    }

    /// Waits until something is so.
    pub(super) fn wait(&mut self, is_ready: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !is_ready()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy has ended ({status}): {}", self.log());
            }
            ensure!(
                Instant::now() < deadline,
                "the proxy does not listen: {}",
                self.log()
            );
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().take(5).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Whether a contestant's proxy listens at this port of the namespace, for all protocols it takes.
pub(super) fn listens(contestant: Contestant, port: u16) -> Result<bool> {
    let wanted = format!(":{port:04X} ");
    let has = |file: &str, state: &str| -> Result<bool> {
        let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        let mut lines = text.lines();
        Ok(lines.any(|line| line.contains(&wanted) && line.contains(state)))
    };
    let (tcp, udp) = match contestant {
        Contestant::NftMinimal => (false, true),
        Contestant::Nginx | Contestant::Socat => (true, true),
        _ => (true, false),
    };
    Ok(
        (!tcp || has("/proc/self/net/tcp", " 0A ")?)
            && (!udp || has("/proc/self/net/udp", " 07 ")?),
    )
}
