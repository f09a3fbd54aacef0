//! Helper programs as separate processes, which a test may kill: proxies, engines, vendors' products.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sidetrack_engine::{Cgroup, RegisteredService};

use crate::client::cargo_bin;

/// A running helper program. It is killed on drop.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The addresses at which it listens; empty unless it is a proxy.
    pub addresses: Vec<SocketAddr>,
}

impl Process {
    /// Starts the proxy of `src/bin/proxy.rs`. With a service, it gets the service's credentials in its
    /// environment. Waits until it listens.
    pub fn proxy(cgroup: &Cgroup, service: Option<&RegisteredService>, arguments: &[&str]) -> Self {
        let mut command = Command::new(cargo_bin("proxy"));
        command.env("PROXY_CGROUP", cgroup.path()).args(arguments);
        if let Some(service) = service {
            command.env(sidetrack::LISTEN_VARIABLE, service.credentials_hex());
        }
        let mut process = Self::start(command);
        process.addresses =
            serde_json::from_str(&process.line()).expect("the proxy prints its addresses");
        process
    }

    /// The same as [`Process::proxy`], with one more environment variable.
    pub(crate) fn proxy_with_variable(
        cgroup: &Cgroup,
        service: &RegisteredService,
        kind: &str,
        (name, value): (&str, String),
    ) -> Self {
        let mut command = Command::new(cargo_bin("proxy"));
        command
            .env("PROXY_CGROUP", cgroup.path())
            .env(sidetrack::LISTEN_VARIABLE, service.credentials_hex())
            .env(name, value)
            .arg(kind);
        let mut process = Self::start(command);
        process.addresses =
            serde_json::from_str(&process.line()).expect("the proxy prints its addresses");
        process
    }

    /// Starts the engine of `src/bin/engine.rs`, with one service to which every connection is
    /// redirected.
    pub fn engine(scope: &Cgroup, home: &Cgroup) -> Self {
        Self::start_engine(Command::new(cargo_bin("engine")), scope, home)
    }

    /// The same in a new PID namespace, in which processes outside of it have no number.
    pub fn engine_in_pid_namespace(scope: &Cgroup, home: &Cgroup) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--mount-proc", "--fork", "--kill-child"])
            .arg(cargo_bin("engine"));
        Self::start_engine(command, scope, home)
    }

    fn start_engine(mut command: Command, scope: &Cgroup, home: &Cgroup) -> Self {
        command.arg(scope.path()).arg(home.path());
        Self::start(command)
    }

    /// Starts the proxy of `src/bin/proxy.rs`, which registers itself with the daemon at a socket, for
    /// the service of this name. Waits until it listens.
    pub fn registered(cgroup: &Cgroup, socket: &Path, service: &str, kind: &str) -> Self {
        let mut process = Self::start(registering(cgroup, socket, service, kind));
        process.addresses =
            serde_json::from_str(&process.line()).expect("the proxy prints its addresses");
        process
    }

    /// Starts the built-in proxy, which registers itself with the daemon at a socket, for the service
    /// of this name. It appends its flow lines to a file. Does not wait until it listens.
    pub fn built_in(cgroup: &Cgroup, socket: &Path, service: &str, lines: &Path) -> Self {
        let mut command = registering(cgroup, socket, service, "inspect");
        command.env("PROXY_LINES", lines);
        Self::start(command)
    }

    /// Starts the vendor's product of `src/bin/vendor.rs`, which uses the daemon at a socket. Waits until
    /// its policy is in force.
    pub fn vendor(cgroup: &Cgroup, socket: &Path, name: &str, weight: u16) -> Self {
        let mut command = Command::new(cargo_bin("vendor"));
        command
            .env("PROXY_CGROUP", cgroup.path())
            .env(sidetrack_api::SOCKET_VARIABLE, socket)
            .args([name, &weight.to_string()]);
        let mut process = Self::start(command);
        assert_eq!(process.line(), "ready\n");
        process
    }

    /// Starts an example of the SDK in this cgroup, for use with the daemon at a socket. The first
    /// argument is the example's name.
    pub fn example(cgroup: &Cgroup, socket: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let folder = cargo_bin("sidetrack").with_file_name("examples");
        command
            .args([
                "-c",
                "echo $$ > $0/cgroup.procs && cd $1 && shift && exec ./\"$@\"",
            ])
            .args([cgroup.path(), &folder])
            .args(arguments)
            .env(sidetrack_api::SOCKET_VARIABLE, socket);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            stdin: child.stdin.take().expect("standard input is piped"),
            stdout: BufReader::new(child.stdout.take().expect("standard output is piped")),
            child,
            addresses: Vec::new(),
        }
    }

    /// Reads the credentials that an engine prints.
    pub fn service(&mut self) -> sidetrack::Service {
        sidetrack::Service::from_hex(self.line().trim()).expect("the credentials are valid")
    }

    /// Reads the next line of its standard output; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        read.expect("standard output is readable");
        line
    }

    /// Writes a line to its standard input.
    pub fn send_line(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the program reads its standard input");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL, and waits until the kernel has closed its sockets and files.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to end, with SIGTERM, and waits until it has ended.
    pub fn terminate(mut self) {
        send_signal(self.id(), Signal::TERM);
        self.child.wait().expect("it is a child");
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to a process.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id is not zero");
    kill_process(pid, signal).expect("the process exists");
}

/// The command of a proxy that registers itself.
fn registering(cgroup: &Cgroup, socket: &Path, service: &str, kind: &str) -> Command {
    let mut command = Command::new(cargo_bin("proxy"));
    command
        .env("PROXY_CGROUP", cgroup.path())
        .env("PROXY_SERVICE", service)
        .env(sidetrack_api::SOCKET_VARIABLE, socket)
        .arg(kind);
    command
}
