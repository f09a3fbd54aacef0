//! The harness: a daemon with its own socket and store, its clients, and example objects.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidetrack_api::client::{self, Client, Error, Session};
use sidetrack_api::v1;
use sidetrack_policy::{Code, Uuid};

use super::fake_data_path::FakeDataPath;
use crate::committer::Start;
use crate::config::Config;
use crate::event::EventLog;
use crate::server::{self, Api};

/// The environment variable that has the daemon's socket, for a client in a separate process.
const CLIENT_PROCESS_SOCKET: &str = "SIDETRACK_TEST_SOCKET";
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

    /// Stops the daemon, and waits until its threads have ended.
    async fn stop(&mut self) {
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
        let socket = folder.path().join("sidetrackd.sock");
        let log = EventLog::default();
        let start = Start {
            store: Some(folder.path().join("policy.redb")),
            boot_id: boot.into(),
            log: log.clone(),
            refresh: Duration::from_millis(10),
        };
        let for_committer = data_path.clone();
        let (committer, thread) = start
            .spawn(move || Ok(Box::new(for_committer)))
            .await
            .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let api = Api::new(&config, committer, log).unwrap();
        let listener = server::listen(&socket).unwrap();
        drop(inside);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let connections = config.limits.connections;
        let server = runtime.spawn(async move {
            let stopped = async { drop(stopped.await) };
            api.serve(listener, connections, stopped).await.unwrap();
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

    pub(super) async fn state(&self) -> v1::State {
        let mut client = self.client().await;
        client
            .get_state(v1::GetStateRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Returns the environment that makes a process a client of this daemon.
    pub(super) fn client_environment(&self) -> [(&str, &std::path::Path); 1] {
        [(CLIENT_PROCESS_SOCKET, &self.socket)]
    }

    /// Runs a test of this program in a separate process. It finds the daemon by
    /// [`socket_from_environment`].
    pub(super) fn spawn_client(&self, test: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs(self.client_environment())
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

/// Returns the daemon's socket, or none if [`Daemon::spawn_client`] has not started this process.
pub(super) fn socket_from_environment() -> Option<PathBuf> {
    std::env::var_os(CLIENT_PROCESS_SOCKET).map(Into::into)
}

/// Returns a configuration in which dynamic sessions wait for so many seconds.
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

/// Asserts that a call was refused with one of WFP's codes.
#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code) {
    match Error::from(result.unwrap_err()) {
        Error::Policy(error) => {
            assert_eq!(error.code, code, "{error}");
            assert!(!error.message.is_empty());
        }
        other => panic!("expected {code}, got {other}"),
    }
}

pub(super) fn key(number: u128) -> Vec<u8> {
    Uuid::from_u128(number).as_bytes().to_vec()
}

pub(super) fn provider(number: u128) -> v1::Provider {
    v1::Provider {
        key: key(number),
        name: "vendor".into(),
        ..Default::default()
    }
}

pub(super) fn sublayer(number: u128) -> v1::Sublayer {
    v1::Sublayer {
        key: key(number),
        name: "group".into(),
        weight: 1,
        ..Default::default()
    }
}

pub(super) fn service(number: u128) -> v1::Service {
    v1::Service {
        key: key(number),
        name: format!("proxy {number}"),
        ..Default::default()
    }
}

pub(super) fn filter(number: u128) -> v1::Filter {
    v1::Filter {
        key: key(number),
        name: format!("rule {number}"),
        layer: v1::Layer::ConnectRedirectV4.into(),
        action: v1::Action::Permit.into(),
        ..Default::default()
    }
}

pub(super) fn condition(
    field: v1::Field,
    match_type: i32,
    value: v1::value::Kind,
) -> v1::Condition {
    v1::Condition {
        field: field.into(),
        match_type,
        value: Some(v1::Value { kind: Some(value) }),
    }
}

pub(super) fn range(low: u64, high: u64) -> v1::value::Kind {
    let end = |number| {
        Some(Box::new(v1::Value {
            kind: Some(v1::value::Kind::Uint(number)),
        }))
    };
    v1::value::Kind::Range(Box::new(v1::Range {
        low: end(low),
        high: end(high),
    }))
}

/// Short forms of calls.
pub(super) trait ClientCalls {
    async fn try_add_filter(
        &mut self,
        session: &Session,
        filter: v1::Filter,
    ) -> Result<u64, tonic::Status>;
    async fn begin(&mut self, session: &Session, read_only: bool) -> Result<u64, tonic::Status>;
    async fn commit_transaction(&mut self, session: &Session) -> Result<u64, tonic::Status>;
    async fn abort_transaction(&mut self, session: &Session) -> Result<(), tonic::Status>;
    async fn try_apply(
        &mut self,
        session: &Session,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse, tonic::Status>;
    async fn filters(&mut self, session: u64) -> Vec<v1::Filter>;
}

impl ClientCalls for Client {
    async fn try_add_filter(
        &mut self,
        session: &Session,
        filter: v1::Filter,
    ) -> Result<u64, tonic::Status> {
        let request = v1::AddFilterRequest {
            session_id: session.id(),
            filter: Some(filter),
        };
        Ok(self.add_filter(request).await?.into_inner().id)
    }

    async fn begin(&mut self, session: &Session, read_only: bool) -> Result<u64, tonic::Status> {
        let request = v1::BeginTransactionRequest {
            session_id: session.id(),
            read_only,
        };
        Ok(self
            .begin_transaction(request)
            .await?
            .into_inner()
            .generation)
    }

    async fn commit_transaction(&mut self, session: &Session) -> Result<u64, tonic::Status> {
        let session_id = session.id();
        let committed = self.commit(v1::CommitRequest { session_id }).await?;
        Ok(committed.into_inner().generation)
    }

    async fn abort_transaction(&mut self, session: &Session) -> Result<(), tonic::Status> {
        let session_id = session.id();
        self.abort(v1::AbortRequest { session_id }).await.map(drop)
    }

    async fn try_apply(
        &mut self,
        session: &Session,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse, tonic::Status> {
        let request = v1::ApplyPolicyRequest {
            session_id: session.id(),
            ..request
        };
        Ok(self.apply_policy(request).await?.into_inner())
    }

    async fn filters(&mut self, session_id: u64) -> Vec<v1::Filter> {
        let request = v1::ListRequest {
            session_id,
            provider: Vec::new(),
        };
        let mut messages = self.list_filters(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            assert!((1..=1024).contains(&message.filters.len()));
            all.extend(message.filters);
        }
        all
    }
}
