//! Tests of the program `sidetrackd`: its options, its notifications to systemd, and restarts.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use sidetrack_api::client::{self, Session};
use sidetrack_api::v1;

/// A folder with a configuration, a store and a notification socket, in which daemons run.
struct Sandbox {
    folder: tempfile::TempDir,
    notify: UnixDatagram,
}

impl Sandbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let sandbox = Self { folder, notify };
        let text = format!(
            "socket = {:?}\nstore = {:?}\n",
            sandbox.socket(),
            sandbox.path("policy.redb")
        );
        std::fs::write(sandbox.path("config.toml"), text).unwrap();
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("sidetrackd.sock")
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidetrackd"));
        command
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(Stdio::piped());
        command
    }

    /// Starts a detached daemon, and waits until it is ready.
    fn start(&self) -> Child {
        let mut command = self.command(&self.path("config.toml"));
        let child = command.arg("--detached").spawn().unwrap();
        assert_eq!(self.notification(), "READY=1");
        child
    }

    /// Starts a detached daemon for which a file that is too large is an error, as a full disk is, and not
    /// the end of the process. Waits until it is ready.
    fn start_with_file_limit(&self) -> Child {
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_sidetrackd"))
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--detached")
            .env("NOTIFY_SOCKET", self.path("notify"));
        let child = command.spawn().unwrap();
        assert_eq!(self.notification(), "READY=1");
        child
    }

    /// Waits for the next message to the service manager.
    fn notification(&self) -> String {
        let mut buffer = [0; 256];
        let length = self
            .notify
            .recv(&mut buffer)
            .expect("a notification in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Checks an invalid configuration with `--check`, and returns the error.
    fn check_error(&self, config: &str) -> String {
        let path = self.path("wrong.toml");
        std::fs::write(&path, config).unwrap();
        let Output { status, stderr, .. } = self.command(&path).arg("--check").output().unwrap();
        assert_eq!(status.code(), Some(2));
        String::from_utf8_lossy(&stderr).into_owned()
    }
}

/// Returns the daemon's number of filters.
async fn filter_count(sandbox: &Sandbox) -> u32 {
    let mut client = client::connect(Some(&sandbox.socket())).await.unwrap();
    let state = client.get_state(v1::GetStateRequest {}).await.unwrap();
    state.into_inner().filters
}

async fn add_filter(sandbox: &Sandbox, flags: u32) {
    try_add_filter(sandbox, flags).await.unwrap();
}

async fn try_add_filter(sandbox: &Sandbox, flags: u32) -> Result<(), tonic::Status> {
    let mut client = client::connect(Some(&sandbox.socket())).await.unwrap();
    let options = v1::SessionOptions::default();
    let session = Session::open(&mut client, options).await.unwrap();
    let request = v1::AddFilterRequest {
        session_id: session.id(),
        filter: Some(filter(flags)),
    };
    client.add_filter(request).await.map(drop)
}

fn filter(flags: u32) -> v1::Filter {
    v1::Filter {
        name: "rule".into(),
        description: "x".repeat(1024),
        flags,
        layer: v1::Layer::AuthConnectV4.into(),
        action: v1::Action::Block.into(),
        ..Default::default()
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn an_invalid_configuration_is_refused_with_line_and_column() {
    let sandbox = Sandbox::new();
    let text = sandbox.check_error("log = \"info\"\nsocet = \"/x\"\n");
    assert!(text.contains("line 2, column 1"), "{text}");
    assert!(text.contains("`socket`"), "{text}");
    let text = sandbox.check_error("log = \"sidetrackd=loud=\"\n");
    assert!(text.contains("`log`"), "{text}");
    let text = sandbox.check_error("pins = \"/sys/fs/bpf/side.track\"\n");
    assert!(text.contains("no dot"), "{text}");
}

#[test]
fn the_manual_page_is_written_to_a_file() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("sidetrackd.8");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidetrackd"));
    let status = command.arg("--man").arg(&path).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains(".TH sidetrackd 8 "), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn static_and_persistent_objects_outlive_a_killed_daemon() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start();
    add_filter(&sandbox, v1::Flag::Persistent as u32).await;
    add_filter(&sandbox, 0).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = sandbox.start();
    assert_eq!(filter_count(&sandbox).await, 2);
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(sandbox.notification(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

/// Opens or resumes a dynamic session. It ends when the client or the session is dropped.
async fn dynamic_session(sandbox: &Sandbox, resume_session_id: u64) -> (client::Client, Session) {
    let mut client = client::connect(Some(&sandbox.socket())).await.unwrap();
    let options = v1::SessionOptions {
        dynamic: true,
        resume_session_id,
        ..Default::default()
    };
    let session = Session::open(&mut client, options).await.unwrap();
    (client, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_session_outlives_a_killed_daemon_and_a_stopped_one() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start();
    let (mut client, session) = dynamic_session(&sandbox, 0).await;
    let request = v1::AddFilterRequest {
        session_id: session.id(),
        filter: Some(filter(0)),
    };
    client.add_filter(request).await.unwrap();
    let id = session.id();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = sandbox.start();
    let (_client, session) = dynamic_session(&sandbox, id).await;
    assert_eq!((session.id(), filter_count(&sandbox).await), (id, 1));
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(sandbox.notification(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    let mut child = sandbox.start();
    let (client, session) = dynamic_session(&sandbox, id).await;
    assert_eq!((session.id(), filter_count(&sandbox).await), (id, 1));
    drop((client, session));
    while filter_count(&sandbox).await > 0 {
        assert!(child.try_wait().unwrap().is_none());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_does_not_delay_the_stop() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start();
    let mut client = client::connect(Some(&sandbox.socket())).await.unwrap();
    let options = v1::SessionOptions::default();
    let _session = Session::open(&mut client, options).await.unwrap();
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(sandbox.notification(), "STOPPING=1");
    // Sooner than the committer's next refresh, after 5 s: the dropped handles wake it.
    let began = std::time::Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_fails_and_the_first_continues() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start();
    let mut second = sandbox.command(&sandbox.path("config.toml"));
    let output = second.arg("--detached").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot open"), "{text}");
    assert_eq!(filter_count(&sandbox).await, 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Sets the size that files of a process may have, in bytes. Writes beyond it fail, as on a full disk.
fn limit_files(child: &Child, bytes: Option<u64>) {
    let pid = rustix::process::Pid::from_child(child);
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    rustix::process::prlimit(Some(pid), Resource::Fsize, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_full_disk_changes_work_again() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start_with_file_limit();
    let persistent = v1::Flag::Persistent as u32;
    let mut added = 0;
    let store = sandbox.path("policy.redb");
    let size = std::fs::metadata(&store).unwrap().len();
    // Without room for a larger file, some commits succeed; with the second limit, none does.
    for limit in [size, 4096] {
        limit_files(&child, Some(limit));
        let refusal = loop {
            match try_add_filter(&sandbox, persistent).await {
                Ok(()) => added += 1,
                Err(refusal) => break refusal,
            }
            assert!(added < 10_000, "the store has room for all of them");
        };
        assert_eq!(refusal.code(), tonic::Code::Internal, "{refusal}");
        assert!(refusal.message().contains("store"), "{refusal}");
        try_add_filter(&sandbox, persistent).await.unwrap_err();
        assert_eq!(filter_count(&sandbox).await, added);
        limit_files(&child, None);
        add_filter(&sandbox, persistent).await;
        added += 1;
        assert_eq!(filter_count(&sandbox).await, added);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = sandbox.start();
    assert_eq!(filter_count(&sandbox).await, added);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The exit code is 2 and the reason is one sentence; there is no socket yet.
#[test]
fn a_refused_start_is_explained_and_makes_no_socket() {
    let sandbox = Sandbox::new();
    let (config, store) = (sandbox.path("config.toml"), sandbox.path("policy.redb"));
    let refusal = |options: &[&str]| {
        let output = sandbox.command(&config).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(!sandbox.socket().exists());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    std::fs::write(&store, "not a database").unwrap();
    let text = refusal(&["--detached"]);
    assert!(text.contains("is damaged"), "{text}");
    std::fs::remove_file(&store).unwrap();
    let mut text = std::fs::read_to_string(&config).unwrap();
    text += "cgroup = \"/nowhere\"\n";
    std::fs::write(&config, text).unwrap();
    refusal(&[]);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_refused_and_kept() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.socket(), "contents").unwrap();
    let mut command = sandbox.command(&sandbox.path("config.toml"));
    let output = command.arg("--detached").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a file and not a socket"), "{text}");
    let kept = std::fs::read_to_string(sandbox.socket()).unwrap();
    assert_eq!(kept, "contents");
}
