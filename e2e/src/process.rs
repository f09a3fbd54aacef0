//! Proxies, and engines, that are processes of their own and may be killed.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sidetrack_engine::{Cgroup, Service};

use crate::Daemon;
use crate::client::cargo_bin;

/// A process of the test's; it ends with it.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
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
        Self::engine_of(Command::new(cargo_bin("engine")), scope, home)
    }

    /// The same where processes have other numbers, or none.
    pub fn engine_apart(scope: &Cgroup, home: &Cgroup) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--mount-proc", "--fork", "--kill-child"])
            .arg(cargo_bin("engine"));
        Self::engine_of(command, scope, home)
    }

    fn engine_of(mut command: Command, scope: &Cgroup, home: &Cgroup) -> Self {
        command.arg(scope.path()).arg(home.path());
        Self::start(command)
    }

    /// A proxy that registers itself with a daemon, for a service of this name.
    pub fn registered(cgroup: &Cgroup, daemon: &Daemon, service: &str, kind: &str) -> Self {
        let mut command = Command::new(cargo_bin("proxy"));
        command
            .env("PROXY_CGROUP", cgroup.path())
            .env("PROXY_SERVICE", service)
            .env(sidetrack_api::SOCKET_VARIABLE, daemon.socket())
            .arg(kind);
        let mut process = Self::start(command);
        process.addresses = serde_json::from_str(&process.line()).expect("it tells its addresses");
        process
    }

    /// A vendor's product of `src/bin/vendor.rs`, ready.
    pub fn vendor(cgroup: &Cgroup, daemon: &Daemon, name: &str, weight: u16) -> Self {
        let mut command = Command::new(cargo_bin("vendor"));
        command
            .env("PROXY_CGROUP", cgroup.path())
            .env(sidetrack_api::SOCKET_VARIABLE, daemon.socket())
            .args([name, &weight.to_string()]);
        let mut process = Self::start(command);
        assert_eq!(process.line(), "ready\n");
        process
    }

    /// An example of the SDK's, in a cgroup; it finds the daemon.
    pub fn example(cgroup: &Cgroup, daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let folder = cargo_bin("sidetrack").with_file_name("examples");
        command
            .args([
                "-c",
                "echo $$ > $0/cgroup.procs && cd $1 && shift && exec ./\"$@\"",
            ])
            .args([cgroup.path(), &folder])
            .args(arguments)
            .env(sidetrack_api::SOCKET_VARIABLE, daemon.socket());
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            stdin: child.stdin.take().expect("it is piped"),
            stdout: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            addresses: Vec::new(),
        }
    }

    /// The service whose credentials an engine says.
    pub fn service(&mut self) -> sidetrack::Service {
        sidetrack::Service::from_hex(self.line().trim()).expect("credentials")
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it can be read");
        line
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it listens");
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
