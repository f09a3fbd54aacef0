//! Programs that a test starts in the scope, and what they print.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use sidetrack_engine::Cgroup;

/// A running program.
pub struct Client {
    child: Child,
    command: String,
    lines: Option<BufReader<ChildStdout>>,
}

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote to its standard output.
    pub stdout: String,
    /// All that it wrote to its standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Client {
    pub(crate) fn start<T: AsRef<str>>(cgroup: &Cgroup, program: &Path, arguments: &[T]) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let child = Command::new(program)
            .env("CLIENT_CGROUP", cgroup.path())
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        Self {
            child,
            command: arguments.join(" "),
            lines: None,
        }
    }

    /// The running process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Reads the next line of its standard output, which is JSON. The program may go on after that.
    pub fn json_line(&mut self) -> serde_json::Value {
        let lines = self.lines.get_or_insert_with(|| {
            BufReader::new(self.child.stdout.take().expect("standard output is piped"))
        });
        let mut line = String::new();
        lines
            .read_line(&mut line)
            .expect("standard output is readable");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{}: {error}: {line}", self.command))
    }

    /// Writes a line to its standard input.
    pub fn send_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is piped");
        writeln!(stdin, "{line}").expect("the program reads its standard input");
    }

    /// Kills it with SIGKILL, and waits until it has ended.
    pub fn kill(mut self) {
        self.child.kill().expect("the program runs");
        self.child.wait().expect("the program has ended");
    }

    /// Closes its standard input, and waits until it has ended.
    pub fn wait(mut self) -> Outcome {
        let mut rest = Vec::new();
        if let Some(mut lines) = self.lines {
            drop(self.child.stdin.take());
            lines
                .read_to_end(&mut rest)
                .expect("standard output is readable");
        }
        let Output {
            status,
            stdout,
            stderr,
        } = self.child.wait_with_output().expect("the program ends");
        Outcome {
            code: status.code(),
            stdout: String::from_utf8_lossy(if rest.is_empty() { &stdout } else { &rest })
                .into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Waits until it has ended, and parses its standard output as JSON.
    pub fn json(self) -> serde_json::Value {
        let command = self.command.clone();
        let outcome = self.wait();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{command}: {error} in {outcome:?}"))
    }
}

/// The path of the client program, `src/bin/client.rs`.
pub fn client_binary() -> PathBuf {
    cargo_bin("client")
}

/// The path of a binary of this workspace. Cargo builds it in a folder above the test's.
pub(crate) fn cargo_bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's executable has a path");
    let folder = test
        .ancestors()
        .find(|folder| folder.join(name).is_file())
        .unwrap_or_else(|| panic!("{name} is not built; run cargo build first"));
    folder.join(name)
}
