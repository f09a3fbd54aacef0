//! The program itself: its options, readiness, and two of them one after another.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use sidetrack_api::client::{self, Session};
use sidetrack_api::v1;

struct Host {
    folder: tempfile::TempDir,
    notify: UnixDatagram,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let host = Self { folder, notify };
        let text = format!(
            "socket = {:?}\nstore = {:?}\n",
            host.socket(),
            host.path("policy.redb")
        );
        std::fs::write(host.path("config.toml"), text).unwrap();
        host
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

    fn start(&self) -> Child {
        let mut command = self.command(&self.path("config.toml"));
        let child = command.arg("--detached").spawn().unwrap();
        assert_eq!(self.told(), "READY=1");
        child
    }

    /// What the service manager is told next.
    fn told(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.notify.recv(&mut buffer).expect("told in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The output of a daemon that does not start.
    fn fails(&self, config: &str) -> String {
        let path = self.path("wrong.toml");
        std::fs::write(&path, config).unwrap();
        let Output { status, stderr, .. } = self.command(&path).arg("--check").output().unwrap();
        assert_eq!(status.code(), Some(2));
        String::from_utf8_lossy(&stderr).into_owned()
    }
}

async fn filters(host: &Host) -> u32 {
    let mut client = client::connect(Some(&host.socket())).await.unwrap();
    let state = client.get_state(v1::GetStateRequest {}).await.unwrap();
    state.into_inner().filters
}

async fn add_filter(host: &Host, flags: u32) {
    let mut client = client::connect(Some(&host.socket())).await.unwrap();
    let options = v1::SessionOptions::default();
    let session = Session::open(&mut client, options).await.unwrap();
    let request = v1::AddFilterRequest {
        session_id: session.id(),
        filter: Some(filter(flags)),
    };
    client.add_filter(request).await.unwrap();
}

fn filter(flags: u32) -> v1::Filter {
    v1::Filter {
        name: "rule".into(),
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
fn a_wrong_configuration_is_refused_with_line_and_column() {
    let host = Host::new();
    let text = host.fails("log = \"info\"\nsocet = \"/x\"\n");
    assert!(text.contains("line 2, column 1"), "{text}");
    assert!(text.contains("`socket`"), "{text}");
    let text = host.fails("log = \"sidetrackd=loud=\"\n");
    assert!(text.contains("`log`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_static_or_persistent_outlives_a_killed_daemon() {
    let host = Host::new();
    let mut child = host.start();
    add_filter(&host, v1::Flag::Persistent as u32).await;
    add_filter(&host, 0).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = host.start();
    assert_eq!(filters(&host).await, 2);
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(host.told(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

/// A dynamic session with a filter, and what keeps it.
async fn dynamic_session(host: &Host, resume_session_id: u64) -> (client::Client, Session) {
    let mut client = client::connect(Some(&host.socket())).await.unwrap();
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
    let host = Host::new();
    let mut child = host.start();
    let (mut client, session) = dynamic_session(&host, 0).await;
    let request = v1::AddFilterRequest {
        session_id: session.id(),
        filter: Some(filter(0)),
    };
    client.add_filter(request).await.unwrap();
    let id = session.id();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = host.start();
    let (_client, session) = dynamic_session(&host, id).await;
    assert_eq!((session.id(), filters(&host).await), (id, 1));
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(host.told(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    let mut child = host.start();
    let (client, session) = dynamic_session(&host, id).await;
    assert_eq!((session.id(), filters(&host).await), (id, 1));
    drop((client, session));
    while filters(&host).await > 0 {
        assert!(child.try_wait().unwrap().is_none());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_does_not_hold_up_the_end() {
    let host = Host::new();
    let mut child = host.start();
    let mut client = client::connect(Some(&host.socket())).await.unwrap();
    let options = v1::SessionOptions::default();
    let _session = Session::open(&mut client, options).await.unwrap();
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(host.told(), "STOPPING=1");
    // Sooner than the committer would look by itself.
    let began = std::time::Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let host = Host::new();
    let mut child = host.start();
    let mut second = host.command(&host.path("config.toml"));
    let output = second.arg("--detached").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot open"), "{text}");
    assert_eq!(filters(&host).await, 0);
    child.kill().unwrap();
    child.wait().unwrap();
}
