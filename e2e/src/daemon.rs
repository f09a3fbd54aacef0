//! A daemon that holds policy and judges no connection by it, and the command that talks to it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::client::{Outcome, cargo_bin};
use crate::wait;

/// A daemon with a socket and a store of its own. It ends with the test.
pub struct Daemon {
    child: Child,
    home: TempDir,
}

impl Daemon {
    /// Starts one, detached, and waits until it answers.
    pub fn detached() -> Self {
        let home = TempDir::new().expect("a folder can be made");
        let child = start(home.path());
        let daemon = Self { child, home };
        daemon.await_answer();
        daemon
    }

    /// Ends it by SIGKILL, and starts another with the same store.
    pub fn restart(&mut self) {
        self.end();
        std::fs::remove_file(self.socket()).expect("it had a socket");
        self.child = start(self.home.path());
        self.await_answer();
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

    fn await_answer(&self) {
        let socket = self.socket();
        wait::until("the daemon listens", || {
            UnixStream::connect(&socket).is_ok()
        });
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(home: &Path) -> Child {
    let config = home.join("sidetrackd.toml");
    let text = format!(
        "socket = {:?}\nstore = {:?}\n",
        home.join("socket"),
        home.join("policy.redb")
    );
    std::fs::write(&config, text).expect("a file can be written");
    Command::new(cargo_bin("sidetrackd"))
        .arg("--detached")
        .arg("--config")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .expect("sidetrackd starts")
}
