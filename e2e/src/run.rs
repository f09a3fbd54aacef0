//! `sidetrack run`, as a user types it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use sidetrack_engine::{Cgroup, cgroup, legacy};
use tempfile::TempDir;

use crate::client::{Outcome, cargo_bin};
use crate::wait;

/// Options: three proxies in a chain.
pub const CHAIN: [&str; 6] = [
    "--via",
    "inspect:a",
    "--via",
    "inspect:b",
    "--via",
    "inspect:c",
];

/// The services' names by a run's options: [`CHAIN`]'s, or the one there is without any.
pub fn services(options: &[&str]) -> &'static [&'static str] {
    match options {
        [] => &["inspect"],
        _ => &["a", "b", "c"],
    }
}

/// For a command in bash: waits until the run has written a flow line, for 20 seconds at most.
pub const UNTIL_A_FLOW_ENDED: &str =
    "until [ -s \"$FLOWS\" ]; do [ $SECONDS -lt 20 ] || exit 124; sleep 0.01; done";

/// A run in the making, or at work.
pub struct Run {
    command: Command,
    flows: TempDir,
}

/// A run that was started.
pub struct Started {
    child: Child,
    said: Said,
    flows: TempDir,
}

/// What a process has said on its standard error so far.
struct Said {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// How a run ended, and the flow lines it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, standard output, standard error.
    pub outcome: Outcome,
    /// Its `--json`.
    pub flows: Vec<serde_json::Value>,
}

impl Ended {
    /// The flow lines of UDP that a service wrote.
    pub fn datagrams_of(&self, service: &str) -> Vec<&serde_json::Value> {
        let lines = self.flows.iter();
        lines
            .filter(|line| line["service"] == service && line["protocol"] == "udp")
            .collect()
    }
}

impl Run {
    /// With these options, then `--`, then the command.
    pub fn new(options: &[&str], command: &[&str]) -> Self {
        Self::through(&[], options, command)
    }

    /// The same by way of a command that becomes another.
    pub fn through(wrapper: &[&str], options: &[&str], command: &[&str]) -> Self {
        let flows = TempDir::new().expect("a folder can be made");
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.push(cargo_bin("sidetrack").into());
        let mut run = Command::new(&words[0]);
        run.args(&words[1..])
            .arg("run")
            .arg("--json")
            .arg(flows.path().join("flows"))
            .args(options)
            .arg("--")
            .args(command)
            .env("NO_COLOR", "1")
            .env("FLOWS", flows.path().join("flows"))
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
        let mut child = self.command.spawn().expect("it starts");
        Started {
            said: Said::listen(child.stderr.take().expect("it is piped")),
            child,
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

    /// Tells its command a line.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("it listens");
    }

    /// Waits until it has said this on its standard error.
    pub fn await_word(&self, word: &str) {
        wait::until(&format!("it says {word:?}"), || {
            self.said.so_far().contains(word)
        });
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
        let outcome = Outcome {
            stderr: self.said.all(),
            ..output.into()
        };
        let flows = std::fs::read_to_string(self.flows.path().join("flows")).unwrap_or_default();
        Ended {
            outcome,
            flows: flows
                .lines()
                .map(|line| serde_json::from_str(line).expect("each line is JSON"))
                .collect(),
        }
    }
}

impl Said {
    fn listen(stderr: ChildStderr) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line) + "\n";
                *sink.lock().expect("no holder panics") += &line;
            }
        });
        Self { text, reader }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no holder panics").clone()
    }

    /// Once it has ended.
    fn all(self) -> String {
        self.reader.join().expect("it does not panic");
        let text = self.text.lock().expect("no holder panics");
        text.clone()
    }
}

/// Whether a process has ended, and all that it had is closed, even if nobody has taken note of it yet.
pub fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().collect())
        .unwrap_or_default();
    // Its first thread may be dead while others still hold the files: how many are left is proc(5)'s
    // field 20, and the state is field 3.
    matches!(
        (fields.first(), fields.get(17)),
        (None, _) | (Some(&"Z"), Some(&"1"))
    )
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
