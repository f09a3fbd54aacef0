//! The daemon `sidetrackd`, and the command `sidetrack` that talks to it.

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

/// A running daemon with its own socket and store. It is killed on drop, and its data path is removed.
pub struct Daemon {
    child: Child,
    home: TempDir,
    bpffs: Option<Bpffs>,
}

impl Daemon {
    /// Starts a daemon without a data path, which classifies no connection. Waits until it listens.
    pub fn detached() -> Self {
        let home = TempDir::new().expect("a temporary folder");
        let config = format!("socket = {:?}\n", home.path().join("socket"));
        Self::launch(home, &config, "", None)
    }

    /// Starts a daemon whose scope is a test's cgroup. Waits until it listens.
    pub fn attached(host: &Host) -> Self {
        Self::attached_with(host, "")
    }

    /// The same, with this text at the end of the daemon's configuration.
    pub fn attached_with(host: &Host, tables: &str) -> Self {
        let home = TempDir::new().expect("a temporary folder");
        let bpffs = Bpffs::mount();
        let config = format!(
            "socket = {:?}\ncgroup = {:?}\npins = {:?}\n",
            home.path().join("socket"),
            host.root().path(),
            bpffs.pins()
        );
        Self::launch(home, &config, tables, Some(bpffs))
    }

    fn launch(home: TempDir, config: &str, tables: &str, bpffs: Option<Bpffs>) -> Self {
        let store = home.path().join("policy.redb");
        let text = format!("{config}store = {store:?}\n{tables}");
        std::fs::write(home.path().join("sidetrackd.toml"), text)
            .expect("the configuration is written");
        let child = start(home.path(), detached(bpffs.as_ref()));
        let mut daemon = Self { child, home, bpffs };
        daemon.await_listening();
        daemon
    }

    /// Kills the daemon, and starts another with the same store. Returns how long the new one took
    /// until it listened.
    pub fn restart(&mut self) -> Duration {
        self.kill();
        let started = Instant::now();
        self.child = start(self.home.path(), detached(self.bpffs.as_ref()));
        self.await_listening();
        started.elapsed()
    }

    /// Kills the daemon, and starts another with options. Waits until that one listens. If it ends instead,
    /// returns its exit code and all that the daemons of this test have logged.
    pub fn restart_with(&mut self, options: &[&str]) -> Result<(), (Option<i32>, String)> {
        self.kill();
        self.child = start(self.home.path(), options);
        self.await_listening_or_end()
    }

    /// Kills the daemon, starts another, and kills that one after this delay, however far its start has
    /// come.
    pub fn restart_and_kill(&mut self, delay: Duration) {
        self.kill();
        self.child = start(self.home.path(), detached(self.bpffs.as_ref()));
        // The delay is the input of the test, which kills the daemon at several moments of its
        // start. It does not wait for a condition, and the outcome must be the same at every
        // moment.
        std::thread::sleep(delay);
        self.kill();
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the daemon with SIGKILL. What it has pinned stays.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }

    /// Kills the daemon, and removes its data path.
    pub fn uninstall(&mut self) {
        self.kill();
        if let Some(bpffs) = &self.bpffs {
            remove_pins(&bpffs.pins()).expect("the pins are removed");
        }
    }

    /// Number of descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).expect("the daemon runs").count()
    }

    /// Connects to the daemon's API.
    pub fn api(&self) -> Api {
        Api::connect(Some(&self.socket()))
    }

    /// The path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// The path of the daemon's store.
    pub fn store(&self) -> PathBuf {
        self.home.path().join("policy.redb")
    }

    /// The folder of the data path's pins. Panics if the daemon is detached.
    pub fn pins(&self) -> PathBuf {
        self.bpffs
            .as_ref()
            .expect("the daemon has a data path")
            .pins()
    }

    /// Writes a file to the folder of the daemon's socket. Returns its path.
    pub fn write_file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path
    }

    /// Runs `sidetrack ARGUMENTS` with this daemon.
    pub fn sidetrack(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(arguments);
        let output = command.stdin(Stdio::null()).output();
        output.expect("sidetrack starts").into()
    }

    /// Puts a policy in force by `sidetrack apply`, which must succeed.
    pub fn apply(&self, policy: &str) {
        let applied = self.sidetrack_with_input(&["apply", "-"], policy);
        assert_eq!(applied.code, Some(0), "{applied:?}");
    }

    /// Runs `sidetrack ARGUMENTS` with this daemon and this standard input.
    pub fn sidetrack_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sidetrack starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        stdin
            .write_all(input.as_bytes())
            .expect("sidetrack reads its standard input");
        drop(stdin);
        child.wait_with_output().expect("sidetrack ends").into()
    }

    /// Returns the command `sidetrack ARGUMENTS` for this daemon, for the caller to start.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin("sidetrack"));
        command
            .args(arguments)
            .env("SIDETRACK_SOCKET", self.socket());
        command
    }

    fn await_listening(&mut self) {
        if let Err((code, log)) = self.await_listening_or_end() {
            panic!("the daemon ended with {code:?}: {log}");
        }
    }

    /// If the daemon ends, returns its exit code and the log.
    fn await_listening_or_end(&mut self) -> Result<(), (Option<i32>, String)> {
        let mut ended = None;
        let socket = self.socket();
        wait::until("the daemon listens or ends", || {
            ended = self
                .child
                .try_wait()
                .expect("the daemon is a child process");
            ended.is_some() || UnixStream::connect(&socket).is_ok()
        });
        match ended {
            None => Ok(()),
            Some(status) => Err((status.code(), log(self.home.path()))),
        }
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

/// All that the daemons with this folder have written to their standard error.
fn log(home: &Path) -> String {
    std::fs::read_to_string(home.join("log")).unwrap_or_default()
}

/// The option of a daemon without a data path.
fn detached(bpffs: Option<&Bpffs>) -> &'static [&'static str] {
    match bpffs {
        Some(_) => &[],
        None => &["--detached"],
    }
}

fn start(home: &Path, options: &[&str]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(home.join("log"));
    Command::new(cargo_bin("sidetrackd"))
        .args(options)
        .arg("--config")
        .arg(home.join("sidetrackd.toml"))
        .stderr(log.expect("the log file opens"))
        .spawn()
        .expect("sidetrackd starts")
}
