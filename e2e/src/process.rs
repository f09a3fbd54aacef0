//! Proxies, and engines, that are processes of their own and may be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sidetrack_engine::{Cgroup, Service};

use crate::client::cargo_bin;

/// A process of the test's; it ends with it.
pub struct Process {
    child: Child,
    _stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Where it listens, if it does.
    pub addresses: Vec<SocketAddr>,
}

impl Process {
    /// A proxy of `src/bin/proxy.rs`, for a service whose credentials it is given.
    pub fn proxy(cgroup: &Cgroup, service: Option<&Service>, arguments: &[&str]) -> Self {
        let mut command = Command::new(cargo_bin("proxy"));
        command.env("PROXY_CGROUP", cgroup.path()).args(arguments);
        if let Some(service) = service {
            command.env(sidetrack::LISTEN_VARIABLE, service.credentials_hex());
        }
        let mut process = Self::start(command);
        process.addresses = serde_json::from_str(&process.line()).expect("it tells its addresses");
        process
    }

    /// An engine of `src/bin/engine.rs`, with one service that everything is redirected to.
    pub fn engine(scope: &Cgroup, home: &Cgroup) -> Self {
        let mut command = Command::new(cargo_bin("engine"));
        command.arg(scope.path()).arg(home.path());
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            _stdin: child.stdin.take().expect("it is piped"),
            stdout: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            addresses: Vec::new(),
        }
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it can be read");
        line
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by SIGKILL, and waits until the kernel has closed all that it had.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
