//! `sidetrack run`, as a user types it.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sidetrack_engine::{Cgroup, cgroup, legacy};
use tempfile::TempDir;

use crate::client::{Outcome, cargo_bin};
use crate::wait;

/// A run in the making, or at work.
pub struct Run {
    command: Command,
    flows: TempDir,
}

/// A run that was started.
pub struct Started {
    child: Child,
    flows: TempDir,
}

/// How a run ended, and the flow lines it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, standard output, standard error.
    pub outcome: Outcome,
    /// Its `--json`.
    pub flows: Vec<serde_json::Value>,
}

impl Run {
    /// With these options, then `--`, then the command.
    pub fn new(options: &[&str], command: &[&str]) -> Self {
        let flows = TempDir::new().expect("a folder can be made");
        let mut run = Command::new(cargo_bin("sidetrack"));
        run.arg("run")
            .arg("--json")
            .arg(flows.path().join("flows"))
            .args(options)
            .arg("--")
            .args(command)
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command: run,
            flows,
        }
    }

    /// With one more variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Started {
        Started {
            child: self.command.spawn().expect("it starts"),
            flows: self.flows,
        }
    }

    /// Starts it, and waits for its end.
    pub fn wait(self) -> Ended {
        self.start().wait()
    }

    /// The same, with something on its standard input.
    pub fn wait_with_input(self, input: &[u8]) -> Ended {
        let mut started = self.start();
        let mut pipe = started.child.stdin.take().expect("it is piped");
        pipe.write_all(input).expect("it reads");
        drop(pipe);
        started.wait()
    }
}

impl Started {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its cgroup, once it has one.
    pub fn cgroup(&self) -> PathBuf {
        let start = format!("sidetrack.run.{}.", self.pid());
        let mut found = None;
        wait::until("the run has a cgroup", || {
            found = all_runs().into_iter().find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&start))
            });
            found.is_some()
        });
        found.expect("just found")
    }

    /// The processes of a cgroup below the run's, once there are some.
    pub fn processes(&self, below: &str) -> Vec<u32> {
        let path = self.cgroup().join(below);
        let mut found = Vec::new();
        wait::until("the cgroup has processes", || {
            found = processes(&path);
            !found.is_empty()
        });
        found
    }

    /// Waits for its end.
    pub fn wait(self) -> Ended {
        let output = self.child.wait_with_output().expect("it can be waited for");
        let flows = std::fs::read_to_string(self.flows.path().join("flows")).unwrap_or_default();
        Ended {
            outcome: output.into(),
            flows: flows
                .lines()
                .map(|line| serde_json::from_str(line).expect("each line is JSON"))
                .collect(),
        }
    }
}

/// Whether a process has ended, even if nobody has taken note of it yet.
pub fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z"))
}

/// The cgroups of all runs on this host.
pub fn all_runs() -> Vec<PathBuf> {
    let root = cgroup::mount_point().expect("cgroup v2 is mounted");
    cgroup::below(&root)
        .into_iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("sidetrack.run."))
        })
        .collect()
}

fn processes(path: &Path) -> Vec<u32> {
    std::fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// A program that runs beside the test, in a cgroup of its own, and is ended on drop.
pub struct Daemon {
    child: Child,
    cgroup: Option<Cgroup>,
    /// Where its files are.
    pub folder: TempDir,
}

impl Daemon {
    /// Starts it in its own cgroup, named after the test, and waits until it listens. Its
    /// configuration is written to a file, whose path takes the place of `{}` in the arguments.
    pub fn start(test: &str, command: &[&str], configuration: &str, listens: SocketAddr) -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let file = folder.path().join("configuration");
        let here = folder.path().display().to_string();
        std::fs::write(&file, configuration.replace("{folder}", &here)).expect("it can be written");
        let cgroup = Cgroup::root()
            .and_then(|root| root.make(&format!("e2e-{test}-{}", listens.port())))
            .expect("a cgroup can be made");
        let arguments = command
            .iter()
            .map(|word| word.replace("{}", &file.display().to_string()));
        let child = Command::new(cargo_bin("client"))
            .args(["exec", "--"])
            .args(arguments)
            .env("CLIENT_CGROUP", cgroup.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        wait::until("the daemon listens", || {
            // Not by connecting: a transparent proxy that is asked for itself goes round in circles.
            legacy::find(listens).is_ok()
        });
        Self {
            child,
            cgroup: Some(cgroup),
            folder,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
}

/// The command itself.
pub fn sidetrack() -> PathBuf {
    cargo_bin("sidetrack")
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there is a free port")
        .port()
}
