//! A daemon, and the command that talks to it.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidetrack_engine::remove_pins;
use tempfile::TempDir;

use crate::client::{Outcome, cargo_bin};
use crate::{Api, Bpffs, Host, wait};

/// A daemon with a socket and a store of its own. It ends with the test, and so does its data path.
pub struct Daemon {
    child: Child,
    home: TempDir,
    bpffs: Option<Bpffs>,
}

impl Daemon {
    /// Starts one that judges no connection, and waits until it answers.
    pub fn detached() -> Self {
        let home = TempDir::new().expect("a folder can be made");
        let config = format!("socket = {:?}\n", home.path().join("socket"));
        Self::launch(home, &config, None)
    }

    /// Starts one that judges the programs of a test's cgroup, and waits until it answers.
    pub fn attached(host: &Host) -> Self {
        let home = TempDir::new().expect("a folder can be made");
        let bpffs = Bpffs::mount();
        let config = format!(
            "socket = {:?}\ncgroup = {:?}\npins = {:?}\n",
            home.path().join("socket"),
            host.root().path(),
            bpffs.pins()
        );
        Self::launch(home, &config, Some(bpffs))
    }

    fn launch(home: TempDir, config: &str, bpffs: Option<Bpffs>) -> Self {
        let store = home.path().join("policy.redb");
        let text = format!("{config}store = {store:?}\n");
        std::fs::write(home.path().join("sidetrackd.toml"), text).expect("a file can be written");
        let child = start(home.path(), bpffs.is_none());
        let mut daemon = Self { child, home, bpffs };
        daemon.await_answer();
        daemon
    }

    /// Ends it by SIGKILL, starts another with the same store, and tells how long that one took until
    /// it answered.
    pub fn restart(&mut self) -> Duration {
        self.kill();
        let started = Instant::now();
        self.child = start(self.home.path(), self.bpffs.is_none());
        self.await_answer();
        started.elapsed()
    }

    /// Kills the daemon, starts another, and kills that one after this delay, however far its start has
    /// come.
    pub fn restart_and_kill(&mut self, delay: Duration) {
        self.kill();
        self.child = start(self.home.path(), self.bpffs.is_none());
        // The delay is the input of the test, which kills the daemon at several moments of its start. It
        // does not wait for a condition, and the outcome must be the same at every moment.
        std::thread::sleep(delay);
        self.kill();
    }

    /// Ends it by SIGKILL. What it has pinned stays.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }

    /// Ends it, and takes its data path away.
    pub fn uninstall(&mut self) {
        self.kill();
        if let Some(bpffs) = &self.bpffs {
            remove_pins(&bpffs.pins()).expect("pins can be removed");
        }
    }

    /// A connection to its API.
    pub fn api(&self) -> Api {
        Api::connect(Some(&self.socket()))
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// A file beside its socket.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path
    }

    /// What `sidetrack ARGUMENTS` does with it.
    pub fn sidetrack(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(arguments);
        let output = command.stdin(Stdio::null()).output();
        output.expect("sidetrack starts").into()
    }

    /// The same, with an input.
    pub fn sidetrack_fed(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sidetrack starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends").into()
    }

    /// `sidetrack ARGUMENTS`, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin("sidetrack"));
        command
            .args(arguments)
            .env("SIDETRACK_SOCKET", self.socket());
        command
    }

    fn await_answer(&mut self) {
        let socket = self.socket();
        wait::until("the daemon listens", || {
            let ended = self.child.try_wait().expect("it may be asked");
            assert_eq!(ended, None, "it has ended: {}", log(self.home.path()));
            UnixStream::connect(&socket).is_ok()
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", log(self.home.path()));
        }
        self.uninstall();
    }
}

/// What it has said.
fn log(home: &Path) -> String {
    std::fs::read_to_string(home.join("log")).unwrap_or_default()
}

fn start(home: &Path, detached: bool) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(home.join("log"));
    Command::new(cargo_bin("sidetrackd"))
        .args(detached.then_some("--detached"))
        .arg("--config")
        .arg(home.join("sidetrackd.toml"))
        .stderr(log.expect("a file can be made"))
        .spawn()
        .expect("sidetrackd starts")
}
