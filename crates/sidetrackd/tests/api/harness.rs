//! The harness: a daemon with its own socket and store, and its clients.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidetrack_api::client::{self, Client, Session};
use sidetrack_api::config::Config;
use sidetrack_api::{pended, v1};
use sidetrackd::Error;
use sidetrackd::committer::{Handle, OnMismatch, Start};
use sidetrackd::event::EventLog;
use sidetrackd::server::{self, Api, Sockets};

use super::fake_data_path::FakeDataPath;

/// The program `helper.rs`.
pub(super) const HELPER: &str = env!("CARGO_BIN_EXE_sidetrackd-test-helper");
/// The longest time that a test waits for something.
const DEADLINE: Duration = Duration::from_secs(20);
/// A value of `session_grace_seconds` that is longer than any test takes.
pub(super) const LONG_GRACE_SECONDS: u64 = 3600;

/// A daemon in this process.
pub(super) struct Daemon {
    pub(super) socket: PathBuf,
    pub(super) data_path: FakeDataPath,
    pub(super) config: Config,
    folder: Option<tempfile::TempDir>,
    /// The daemon's own runtime, as in the real program. Shutting it down drops all calls in
    /// progress.
    runtime: Option<tokio::runtime::Runtime>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
    committer: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    pub(super) async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub(super) async fn start_with(config: Config) -> Self {
        // Clients of other users connect to the socket in this folder too.
        let folder = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        Self::start_in(folder, config, FakeDataPath::default(), "a boot").await
    }

    /// Stops this daemon and starts another with its store. Another boot id than "a boot" is a
    /// restart of the host: then the data path is new, too.
    pub(super) async fn restart(self, boot: &str) -> Self {
        let config = self.config.clone();
        self.restart_with(boot, config).await
    }

    /// Like [`Self::restart`], with another configuration.
    pub(super) async fn restart_with(mut self, boot: &str, config: Config) -> Self {
        let host_restarted = boot != "a boot";
        self.stop().await;
        let data_path = match host_restarted {
            true => FakeDataPath::default(),
            false => self.data_path.clone(),
        };
        let folder = self.folder.take().unwrap();
        Self::start_in(folder, config, data_path, boot).await
    }

    /// Like [`Self::restart`] without a restart of the host, with an option for the pinned policy.
    /// The daemon must have been stopped.
    pub(super) async fn start_again(&mut self, on_mismatch: OnMismatch) -> Result<(), Error> {
        let store = self.store();
        let committer = start_committer(&store, &self.data_path, "a boot", on_mismatch).await?;
        let folder = self.folder.take().unwrap();
        let (config, data_path) = (self.config.clone(), self.data_path.clone());
        *self = Self::serve(folder, config, data_path, committer);
        Ok(())
    }

    /// The path of the store.
    pub(super) fn store(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("policy.redb")
    }

    /// Stops the daemon, and waits until its threads have ended.
    pub(super) async fn stop(&mut self) {
        drop(self.stop.take());
        self.server.take().unwrap().await.unwrap();
        let runtime = self.runtime.take().unwrap();
        let committer = self.committer.take().unwrap();
        tokio::task::block_in_place(|| {
            runtime.shutdown_timeout(DEADLINE);
            committer.join().unwrap();
        });
    }

    async fn start_in(
        folder: tempfile::TempDir,
        config: Config,
        data_path: FakeDataPath,
        boot: &str,
    ) -> Self {
        let store = folder.path().join("policy.redb");
        let committer = start_committer(&store, &data_path, boot, OnMismatch::Refuse);
        let committer = committer.await.unwrap();
        Self::serve(folder, config, data_path, committer)
    }

    fn serve(
        folder: tempfile::TempDir,
        config: Config,
        data_path: FakeDataPath,
        (committer, thread, log): RunningCommitter,
    ) -> Self {
        let socket = folder.path().join("sidetrackd.sock");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let api = Api::new(&config, committer, log).unwrap();
        let sockets = Sockets {
            api: server::listen(&socket).unwrap(),
            pended: server::listen(&pended::socket(&socket)).unwrap(),
        };
        drop(inside);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let connections = config.limits.connections;
        let server = runtime.spawn(async move {
            let stopped = async { drop(stopped.await) };
            api.serve(sockets, connections, stopped).await.unwrap();
        });
        Self {
            socket,
            data_path,
            config,
            folder: Some(folder),
            runtime: Some(runtime),
            stop: Some(stop),
            server: Some(server),
            committer: Some(thread),
        }
    }

    /// Connects a client.
    pub(super) async fn client(&self) -> Client {
        client::connect(Some(&self.socket)).await.unwrap()
    }

    /// Connects a client and opens a session that is not dynamic.
    pub(super) async fn session(&self) -> (Client, Session) {
        self.session_with(v1::SessionOptions::default()).await
    }

    /// Connects a client and opens a dynamic session.
    pub(super) async fn dynamic_session(&self) -> (Client, Session) {
        let options = v1::SessionOptions {
            dynamic: true,
            ..Default::default()
        };
        self.session_with(options).await
    }

    pub(super) async fn session_with(&self, options: v1::SessionOptions) -> (Client, Session) {
        let mut client = self.client().await;
        let session = Session::open(&mut client, options).await.unwrap();
        (client, session)
    }

    /// Returns the number of tasks in the daemon's runtime.
    pub(super) fn tasks(&self) -> usize {
        self.runtime.as_ref().unwrap().metrics().num_alive_tasks()
    }

    pub(super) async fn state(&self) -> v1::State {
        let mut client = self.client().await;
        client
            .get_state(v1::GetStateRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Returns the command that runs the program `helper.rs` as a user and a group.
    pub(super) fn client_as(&self, subcommand: &str, user: u32, group: u32) -> Command {
        use std::os::unix::process::CommandExt;
        // Other users may have no access to the folder of the program: so run a copy. A separate
        // process makes it. If this process did, a child that another thread forks at that time
        // would inherit the descriptor that is open for writing, and the copy could not be executed
        // (ETXTBSY) until that child executes its own program.
        let copy = self.socket.with_file_name("client");
        if !copy.exists() {
            let mut copying = Command::new("cp");
            let copied = copying
                .arg("--preserve=mode")
                .arg(HELPER)
                .arg(&copy)
                .status();
            assert!(copied.unwrap().success());
        }
        let mut command = Command::new(copy);
        command.arg(subcommand).arg(&self.socket);
        command.current_dir("/").uid(user).gid(group);
        command
    }

    /// Runs the program `helper.rs` in a separate process, as a client of this daemon. Its standard
    /// input is a pipe.
    pub(super) fn spawn_client(&self, subcommand: &str) -> Child {
        Command::new(HELPER)
            .arg(subcommand)
            .arg(&self.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns the peak resident memory of this process, in bytes.
pub(super) fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Resets the peak of [`peak_memory`]: see proc(5), clear_refs.
pub(super) fn reset_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

type RunningCommitter = (Handle, std::thread::JoinHandle<()>, EventLog);

async fn start_committer(
    store: &Path,
    data_path: &FakeDataPath,
    boot: &str,
    on_mismatch: OnMismatch,
) -> Result<RunningCommitter, Error> {
    let log = EventLog::default();
    let start = Start {
        store: Some(store.to_owned()),
        boot_id: boot.into(),
        log: log.clone(),
        refresh: Duration::from_millis(10),
        on_mismatch,
    };
    let data_path = data_path.clone();
    let started = start.spawn(move || Ok(Box::new(data_path)));
    let (committer, thread) = started.await?;
    Ok((committer, thread, log))
}

/// Returns a configuration in which dynamic sessions wait for this number of seconds.
pub(super) fn grace(seconds: u64) -> Config {
    Config {
        session_grace_seconds: seconds,
        ..Config::default()
    }
}

/// Waits until a condition holds, and panics with `what` if it does not within [`DEADLINE`].
pub(super) async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < end, "this did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
