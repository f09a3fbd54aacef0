//! The daemon's API, for tests and programs that do one thing after another.

use std::path::Path;

use sidetrack_api::client::{self, Client, Session};
use sidetrack_api::v1;
use tokio::runtime::Runtime;

/// A connection to the daemon.
pub struct Api {
    client: Client,
    // Sessions live in it: it works while the caller does something else.
    runtime: Runtime,
}

impl Api {
    /// Connects; no socket: to SIDETRACK_SOCKET's.
    pub fn connect(socket: Option<&Path>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let client = runtime.block_on(client::connect(socket));
        Self {
            client: client.expect("the daemon listens"),
            runtime,
        }
    }

    /// Calls, and waits for the answer.
    pub fn call<R>(&mut self, call: impl AsyncFnOnce(&mut Client) -> R) -> R {
        self.runtime.block_on(call(&mut self.client))
    }

    /// Opens a session: it ends when it is dropped.
    pub fn session(&mut self, dynamic: bool) -> Session {
        let options = v1::SessionOptions {
            name: "a test's".into(),
            dynamic,
            ..Default::default()
        };
        let opened = self.call(async |client| Session::open(client, options).await);
        opened.expect("a session can be opened")
    }

    /// Begins a transaction, calls, and commits. Returns the generation and the answer.
    pub fn transaction<R>(
        &mut self,
        session: &Session,
        call: impl AsyncFnOnce(&mut Client) -> R,
    ) -> (u64, R) {
        let session_id = session.id();
        self.call(async |client| {
            let begin = v1::BeginTransactionRequest {
                session_id,
                read_only: false,
            };
            let begun = client.begin_transaction(begin).await;
            begun.expect("nobody else writes for long");
            let answer = call(client).await;
            let committed = client.commit(v1::CommitRequest { session_id }).await;
            let committed = committed.unwrap_or_else(|status| panic!("{status}"));
            (committed.into_inner().generation, answer)
        })
    }

    /// Registers this process for a service, by name.
    pub fn register(&mut self, session: &Session, name: &str) -> sidetrack::Service {
        let request = v1::RegisterServiceRequest {
            session_id: session.id(),
            service: Some(v1::register_service_request::Service::Name(name.into())),
        };
        let answer = self.call(async |client| client.register_service(request).await);
        let answer = answer.unwrap_or_else(|status| panic!("{status}"));
        let credentials = answer.into_inner().credentials;
        sidetrack::Service::from_bytes(&credentials).expect("they are credentials")
    }

    /// What is in force, in numbers.
    pub fn state(&mut self) -> v1::State {
        let answer = self.call(async |client| client.get_state(v1::GetStateRequest {}).await);
        answer.expect("it may be asked").into_inner()
    }
}
