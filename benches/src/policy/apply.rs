//! A daemon of our own, and `sidetrack apply`.

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
use crate::connect::way::policy::Random;
use crate::hierarchy::Hierarchy;

/// Filters of the file.
pub(super) const FILTERS: u32 = 100_000;
/// Of which so many are others in the second file.
const CHANGED: u32 = 1_000;
/// How long the daemon may take until it answers.
const START_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// The first apply, one that changes some, and what the kernel then keeps.
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
        "{filters:?} filters are in force"
    );
    let bytes = state["policy_bytes"].as_u64().context("no policy_bytes")?;
    Ok(Reading::from([
        ("first".to_owned(), first.as_nanos() as f64),
        ("second".to_owned(), second.as_nanos() as f64),
        ("bytes".to_owned(), bytes as f64 / f64::from(FILTERS)),
    ]))
}

/// It ends with this; its data path with the mount namespace that it is pinned in.
struct Daemon {
    child: Child,
    home: TempDir,
}

impl Daemon {
    fn start(hierarchy: &Hierarchy) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let path = home.path();
        let pins = path.join("bpf");
        fs::create_dir(&pins)?;
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&pins)
            .status();
        ensure!(mount.context("run mount")?.success(), "no bpf file system");
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
            .arg(beside("sidetrackd")?)
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
            let late = Instant::now() > deadline;
            if late || self.child.try_wait()?.is_some() {
                let log = fs::read_to_string(self.home.path().join("log"));
                bail!("sidetrackd does not answer: {}", log.unwrap_or_default());
            }
            thread::sleep(LOOK);
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
        self.sidetrack(&["apply", file.to_str().context("a path")?])?;
        Ok(begun.elapsed())
    }

    fn sidetrack(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(beside("sidetrack")?)
            .args(arguments)
            .env("SIDETRACK_SOCKET", self.home.path().join("socket"))
            .stdin(Stdio::null())
            .output()
            .context("run sidetrack")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "sidetrack {arguments:?}: {}",
            said.trim()
        );
        Ok(output.stdout)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
        // Or the folder could not be removed; the pins go with it.
        let _ = Command::new("umount")
            .arg(self.home.path().join("bpf"))
            .status();
    }
}

fn beside(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(program.with_file_name(name))
}

/// A fourth each of prefixes of loopback, of others, of programs and of users, all with ports; the
/// first `others` of them are not those of the file with none.
fn policy(others: u32) -> Result<String> {
    let mut random = Random::new();
    let mut text = String::from(
        "defaults = { layer = \"connect-redirect-v4\" }\nservice = [{ name = \"b\" }]\nfilter = [\n",
    );
    for number in 0..FILTERS {
        let shift = if number < others { 1 } else { 0 };
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
        // As short as can be: a policy file has at most 10,000,000 bytes.
        writeln!(
            text,
            "{{name=\"{number}\",{condition},\
             remote_port={port},action={action}}},"
        )?;
    }
    text.push_str("]\n");
    Ok(text)
}
