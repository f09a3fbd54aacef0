//! Starts a daemon, and measures `sidetrack apply`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::Reading;
use crate::connect::setup::policy::Random;
use crate::hierarchy::Hierarchy;

/// The number of filters in each file.
pub(super) const FILTERS: u32 = 100_000;
/// The number of filters that differ in the second file.
const CHANGED: u32 = 1_000;
/// How long the daemon may take until it accepts connections.
const START_MAX: Duration = Duration::from_secs(10);
/// The time between two attempts to connect to the daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Measures the first apply, an apply that changes some filters, and the memory of the policy in
/// the kernel.
pub(super) fn measure() -> Result<Reading> {
    let hierarchy = Hierarchy::make()?;
    let daemon = Daemon::start(&hierarchy)?;
    let first = daemon.file("first.toml", &policy(0)?)?;
    let second = daemon.file("second.toml", &policy(CHANGED)?)?;
    let (first, second) = (daemon.apply(&first)?, daemon.apply(&second)?);
    let state = daemon.sidetrack(&["state", "--json"])?;
    let state: Value = serde_json::from_slice(&state).context("read the state")?;
    let filters = state["filters"].as_u64();
    ensure!(
        filters == Some(FILTERS.into()),
        "{filters:?} filters are in force instead of {FILTERS}"
    );
    let bytes = state["policy_bytes"]
        .as_u64()
        .context("the state has no policy_bytes")?;
    Ok(Reading::from([
        ("first".to_owned(), first.as_nanos() as f64),
        ("second".to_owned(), second.as_nanos() as f64),
        ("bytes".to_owned(), bytes as f64 / f64::from(FILTERS)),
    ]))
}

/// A `sidetrackd` that ends on drop. Its data path is pinned in a bpf file system of this mount
/// namespace, and ends with it.
struct Daemon {
    child: Child,
    /// Its configuration, socket, store, log and pins.
    home: TempDir,
}

impl Daemon {
    fn start(hierarchy: &Hierarchy) -> Result<Self> {
        let home = tempfile::tempdir().context("create a folder")?;
        let path = home.path();
        let pins = path.join("bpf");
        fs::create_dir(&pins)?;
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&pins)
            .status();
        ensure!(
            mount.context("run mount")?.success(),
            "cannot mount a bpf file system"
        );
        let config = format!(
            "socket = {:?}\nstore = {:?}\ncgroup = {:?}\npins = {:?}\n",
            path.join("socket"),
            path.join("policy.redb"),
            hierarchy.scope.path(),
            pins.join("sidetrack"),
        );
        fs::write(path.join("sidetrackd.toml"), config)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(next_to_this_program("sidetrackd")?)
            .arg("--config")
            .arg(path.join("sidetrackd.toml"))
            .stderr(File::create(path.join("log"))?)
            .spawn()
            .context("start sidetrackd")?;
        let mut daemon = Self { child, home };
        daemon.wait()?;
        Ok(daemon)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while UnixStream::connect(self.home.path().join("socket")).is_err() {
            let is_late = Instant::now() > deadline;
            if is_late || self.child.try_wait()?.is_some() {
                let log = fs::read_to_string(self.home.path().join("log"));
                bail!(
                    "sidetrackd does not accept connections: {}",
                    log.unwrap_or_default()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.home.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn apply(&self, file: &Path) -> Result<Duration> {
        let begun = Instant::now();
        self.sidetrack(&[
            "apply",
            file.to_str().context("the path of the file is not UTF-8")?,
        ])?;
        Ok(begun.elapsed())
    }

    fn sidetrack(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(next_to_this_program("sidetrack")?)
            .args(arguments)
            .env("SIDETRACK_SOCKET", self.home.path().join("socket"))
            .stdin(Stdio::null())
            .output()
            .context("run sidetrack")?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "sidetrack {arguments:?}: {}",
            message.trim()
        );
        Ok(output.stdout)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
        // While the file system is mounted, the folder cannot be removed. The pins disappear with
        // the mount.
        let _ = Command::new("umount")
            .arg(self.home.path().join("bpf"))
            .status();
    }
}

fn next_to_this_program(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(program.with_file_name(name))
}

/// A policy file. A quarter of its filters name loopback prefixes, a quarter other prefixes, a
/// quarter programs and a quarter users; all name ports as well. The first `changed` filters differ
/// from those of `policy(0)`.
fn policy(changed: u32) -> Result<String> {
    let mut random = Random::new();
    let mut text = String::from(
        "defaults = { layer = \"connect-redirect-v4\" }\nservice = [{ name = \"b\" }]\nfilter = [\n",
    );
    for number in 0..FILTERS {
        let shift = if number < changed { 1 } else { 0 };
        let address = format!(
            "{}.{}.{}",
            random.below(256),
            random.below(256),
            random.below(256)
        );
        let condition = match number % 4 {
            0 => format!("remote_address=\"127.{address}\""),
            1 => format!("remote_address=\"10.{address}\""),
            2 => format!("app=\"/usr/bin/p{}\"", random.below(200)),
            _ => format!("user={}", 100_000 + number),
        };
        let low = 1024 + random.below(50_000) + shift;
        let port = match random.below(2) {
            0 => format!("{low}"),
            _ => format!("\"{low}-{}\"", low + random.below(5_000)),
        };
        let action = ["\"permit\"", "\"block\"", "{redirect=\"b\"}"][number as usize % 3];
        // As short as possible: a policy file has at most 10,000,000 bytes.
        writeln!(
            text,
            "{{name=\"{number}\",{condition},\
             remote_port={port},action={action}}},"
        )?;
    }
    text.push_str("]\n");
    Ok(text)
}
