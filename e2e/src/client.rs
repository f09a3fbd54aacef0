//! Programs in the scope.

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

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
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

    /// The next line that it says, as JSON: for one that goes on after that.
    pub fn line(&mut self) -> serde_json::Value {
        let lines = self
            .lines
            .get_or_insert_with(|| BufReader::new(self.child.stdout.take().expect("it is piped")));
        let mut line = String::new();
        lines.read_line(&mut line).expect("it can be read");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{}: {error}: {line}", self.command))
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("it listens");
    }

    /// Ends it by SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// Waits for its end; its standard input ends.
    pub fn wait(mut self) -> Outcome {
        let mut rest = Vec::new();
        if let Some(mut lines) = self.lines {
            drop(self.child.stdin.take());
            lines.read_to_end(&mut rest).expect("it can be read");
        }
        let Output {
            status,
            stdout,
            stderr,
        } = self.child.wait_with_output().expect("it can be waited for");
        Outcome {
            code: status.code(),
            stdout: String::from_utf8_lossy(if rest.is_empty() { &stdout } else { &rest })
                .into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Waits for its end, and takes what it wrote as JSON.
    pub fn json(self) -> serde_json::Value {
        let command = self.command.clone();
        let outcome = self.wait();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{command}: {error} in {outcome:?}"))
    }
}

/// Where the client program is.
pub fn client_binary() -> PathBuf {
    cargo_bin("client")
}

/// A binary of this workspace: in the folder above the test's own.
pub(crate) fn cargo_bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test
        .ancestors()
        .find(|folder| folder.join(name).is_file())
        .unwrap_or_else(|| panic!("{name} is not built; run cargo build first"));
    folder.join(name)
}
