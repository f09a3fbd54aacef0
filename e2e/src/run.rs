//! The command `sidetrack run`, started as a user does.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use sidetrack_engine::{Cgroup, cgroup, legacy};
use tempfile::TempDir;

use crate::client::{Outcome, cargo_bin};
use crate::wait;

/// Options of a run with three proxies in a chain.
pub const CHAIN: [&str; 6] = [
    "--via",
    "inspect:a",
    "--via",
    "inspect:b",
    "--via",
    "inspect:c",
];

/// The names of the services of a run with these options: no options, or [`CHAIN`].
pub fn service_names(options: &[&str]) -> &'static [&'static str] {
    match options {
        [] => &["inspect"],
        _ => &["a", "b", "c"],
    }
}

/// Part of a script for bash: waits until the run has written a flow line, for 20 seconds at most.
pub const UNTIL_A_FLOW_ENDED: &str =
    "until [ -s \"$FLOWS\" ]; do [ $SECONDS -lt 20 ] || exit 124; sleep 0.01; done";

/// A run that has not been started.
pub struct Run {
    command: Command,
    flows: TempDir,
}

/// A run that has been started.
pub struct StartedRun {
    child: Child,
    stderr: StderrReader,
    flows: TempDir,
}

/// Reads the standard error of a process in a thread, so that a test can look at it before the process
/// has ended.
struct StderrReader {
    text: Arc<Mutex<String>>,
    thread: JoinHandle<()>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct FinishedRun {
    /// Exit code, standard output, standard error.
    pub outcome: Outcome,
    /// The flow lines that it wrote to its `--json` file.
    pub flows: Vec<serde_json::Value>,
}

impl FinishedRun {
    /// The flow lines for UDP that this service wrote.
    pub fn datagrams_of(&self, service: &str) -> Vec<&serde_json::Value> {
        let lines = self.flows.iter();
        lines
            .filter(|line| line["service"] == service && line["protocol"] == "udp")
            .collect()
    }
}

impl Run {
    /// Prepares `sidetrack run OPTIONS -- COMMAND`. The environment variable FLOWS has the path of the
    /// file for flow lines.
    pub fn new(options: &[&str], command: &[&str]) -> Self {
        Self::with_wrapper(&[], options, command)
    }

    /// The same as [`Run::new`], started by another program: the wrapper's arguments are followed
    /// by the command line of the run.
    pub fn with_wrapper(wrapper: &[&str], options: &[&str], command: &[&str]) -> Self {
        let flows = shared_folder(); // the run opens the file as the user of the command
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

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the run.
    pub fn start(mut self) -> StartedRun {
        let mut child = self.command.spawn().expect("the run starts");
        StartedRun {
            stderr: StderrReader::start(child.stderr.take().expect("standard error is piped")),
            child,
            flows: self.flows,
        }
    }

    /// Starts the run, and waits until it has ended.
    pub fn wait(self) -> FinishedRun {
        self.start().wait()
    }

    /// Starts the run with this standard input, and waits until it has ended.
    pub fn wait_with_input(self, input: &[u8]) -> FinishedRun {
        let mut started = self.start();
        let mut stdin = started.child.stdin.take().expect("standard input is piped");
        stdin
            .write_all(input)
            .expect("the command reads its standard input");
        drop(stdin);
        started.wait()
    }
}

impl StartedRun {
    /// The process id of `sidetrack run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process of `sidetrack run`.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The path of the file for flow lines.
    pub fn flows_file(&self) -> PathBuf {
        self.flows.path().join("flows")
    }

    /// Writes a line to the command's standard input.
    pub fn send_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is piped");
        writeln!(stdin, "{line}").expect("the command reads its standard input");
    }

    /// Waits until its standard error contains this text.
    pub fn await_stderr(&self, text: &str) {
        wait::until(&format!("standard error contains {text:?}"), || {
            self.stderr.text_so_far().contains(text)
        });
    }

    /// The path of its cgroup. Waits until the cgroup exists.
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
        found.expect("the cgroup was found")
    }

    /// The process ids in a cgroup below the run's. Waits until there are some.
    pub fn processes(&self, below: &str) -> Vec<u32> {
        let path = self.cgroup().join(below);
        let mut found = Vec::new();
        wait::until("the cgroup has processes", || {
            found = processes(&path);
            !found.is_empty()
        });
        found
    }

    /// Closes its standard input, and waits until it has ended.
    pub fn wait(self) -> FinishedRun {
        let output = self.child.wait_with_output().expect("the run ends");
        let outcome = Outcome {
            stderr: self.stderr.text_at_end(),
            ..output.into()
        };
        let flows = std::fs::read_to_string(self.flows.path().join("flows")).unwrap_or_default();
        FinishedRun {
            outcome,
            flows: flows
                .lines()
                .map(|line| serde_json::from_str(line).expect("each line is JSON"))
                .collect(),
        }
    }
}

impl StderrReader {
    fn start(stderr: ChildStderr) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let thread = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line) + "\n";
                *sink.lock().expect("no holder panics") += &line;
            }
        });
        Self { text, thread }
    }

    fn text_so_far(&self) -> String {
        self.text.lock().expect("no holder panics").clone()
    }

    /// Waits until the process has closed its standard error, and returns all of it.
    fn text_at_end(self) -> String {
        self.thread.join().expect("the thread does not panic");
        let text = self.text.lock().expect("no holder panics");
        text.clone()
    }
}

/// Whether a process has ended and its files are closed. It may still be a zombie.
pub fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().collect())
        .unwrap_or_default();
    // The main thread may have ended while others still hold the files. So the process is gone if its
    // state (field 3 in proc(5)) is Z and its number of threads (field 20) is 1.
    matches!(
        (fields.first(), fields.get(17)),
        (None, _) | (Some(&"Z"), Some(&"1"))
    )
}

/// The paths of the cgroups of all runs on this host.
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

/// A temporary folder to which every user can write.
pub fn shared_folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777))
        .expect("the permissions are set");
    folder
}

fn processes(path: &Path) -> Vec<u32> {
    std::fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

/// Another product's daemon, such as HAProxy, in a separate cgroup. It is killed on drop.
pub struct ForeignDaemon {
    child: Child,
    cgroup: Option<Cgroup>,
    /// The folder of its configuration and other files.
    pub folder: TempDir,
}

impl ForeignDaemon {
    /// Starts it in a cgroup that is named after the test and the port, and waits until it listens. Its
    /// configuration is written to a file: there `{folder}` becomes the path of the folder, and in the
    /// arguments `{}` becomes the path of the file.
    pub fn start(test: &str, command: &[&str], configuration: &str, listens: SocketAddr) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("configuration");
        let path = folder.path().display().to_string();
        std::fs::write(&file, configuration.replace("{folder}", &path))
            .expect("the configuration is written");
        let cgroup = Cgroup::root()
            .and_then(|root| root.make(&format!("e2e-{test}-{}", listens.port())))
            .expect("the cgroup is made");
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
            .expect("the daemon starts");
        wait::until("the daemon listens", || {
            // This does not connect: a transparent proxy would connect to itself, without end.
            legacy::find(listens).is_ok()
        });
        Self {
            child,
            cgroup: Some(cgroup),
            folder,
        }
    }
}

impl Drop for ForeignDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
}

/// The path of the command `sidetrack`.
pub fn sidetrack() -> PathBuf {
    cargo_bin("sidetrack")
}

/// A port of 127.0.0.1 that was free during the call.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port()
}
