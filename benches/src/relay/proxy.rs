//! The processes of proxies. Each proxy runs in its own cgroup, and on a CPU that the traffic
//! generator does not use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sidetrack_engine::Cgroup;
use tempfile::TempDir;

use super::contestant::Contestant;

/// The group id of the proxies. The rules of `relay.nft` do not divert its connections.
const GROUP: &str = "13";
/// How long a proxy may take until it listens. mitmproxy is slow, because it is written in Python.
const START_MAX: Duration = Duration::from_secs(20);
/// The time between two checks whether a proxy listens.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Where `make bench` installs mitmproxy; the version of Debian is not usable.
pub(crate) const MITMDUMP: &str = "target/mitmproxy/bin/mitmdump";

/// A running proxy. It ends on drop.
pub(super) struct ProxyProcess {
    child: Child,
    /// Its configuration and its log.
    folder: TempDir,
}

/// The command that starts a contestant's proxy. `None` if it needs no proxy, or if the engine
/// starts it.
///
/// Errors: the proxy is not installed.
pub(super) fn command(contestant: Contestant, folder: &Path) -> Result<Option<Command>> {
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let haproxy = include_str!("../../peers/haproxy.cfg");
    let mut command;
    match contestant {
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
            let traffic = match contestant {
                Contestant::TwoHops => "connections",
                _ => "datagrams",
            };
            command.args(["minimal-relay", traffic]);
        }
        Contestant::Direct
        | Contestant::Sidetrack
        | Contestant::Chain(_)
        | Contestant::Accepted(_)
        | Contestant::Pended(_)
        | Contestant::NextToAccepted
        | Contestant::NextToPended => return Ok(None),
    }
    Ok(Some(command))
}

/// The path of an installed program.
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

impl ProxyProcess {
    /// Starts a proxy in a cgroup, on the last CPU. It ends when this process ends.
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
            .stderr(fs::File::create(folder.path().join("log")).context("create a log file")?);
        for (name, value) in command.get_envs() {
            launcher.env(name, value.unwrap_or_default());
        }
        let child = launcher.spawn().context("start a proxy")?;
        Ok(Self { child, folder })
    }

    /// Waits until the proxy is ready.
    ///
    /// Errors: it ended, or it is not ready in time. The message contains the first lines of its
    /// log.
    pub(super) fn wait(&mut self, is_ready: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !is_ready()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy ended ({status}): {}", self.log());
            }
            ensure!(
                Instant::now() < deadline,
                "the proxy does not listen: {}",
                self.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().take(5).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

/// Whether a contestant's proxy listens on this port of the namespace, with all protocols that it
/// relays.
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
