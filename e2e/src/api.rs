//! The daemon's gRPC API with blocking calls, for tests and helper programs.

use std::path::Path;

use sidetrack_api::client::{self, Client, Session};
use sidetrack_api::v1;
use tokio::runtime::Runtime;

/// A connection to the daemon, with the runtime that its calls run in.
pub struct Api {
    client: Client,
    // It has a worker thread, so that a session is kept alive between two calls.
    runtime: Runtime,
}

impl Api {
    /// Connects to the daemon's socket at this path. Without a path it is the one that the environment
    /// variable SIDETRACK_SOCKET names.
    pub fn connect(socket: Option<&Path>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("the runtime starts");
        let client = runtime.block_on(client::connect(socket));
        Self {
            client: client.expect("the daemon listens"),
            runtime,
        }
    }

    /// Makes a call, and waits for its answer.
    pub fn call<R>(&mut self, call: impl AsyncFnOnce(&mut Client) -> R) -> R {
        self.runtime.block_on(call(&mut self.client))
    }

    /// Opens a session, which ends when the returned value is dropped.
    pub fn session(&mut self, dynamic: bool) -> Session {
        let options = v1::SessionOptions {
            name: "test".into(),
            dynamic,
            ..Default::default()
        };
        let opened = self.call(async |client| Session::open(client, options).await);
        opened.expect("the session opens")
    }

    /// Makes a call within a transaction, and commits it. Returns the new generation and the answer.
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
            begun.expect("the transaction begins: no other one holds the lock for long");
            let answer = call(client).await;
            let committed = client.commit(v1::CommitRequest { session_id }).await;
            let committed = committed.unwrap_or_else(|status| panic!("{status}"));
            (committed.into_inner().generation, answer)
        })
    }

    /// Registers this process as the proxy of the service with this name. Returns its credentials.
    pub fn register(&mut self, session: &Session, name: &str) -> sidetrack::Service {
        let hex = self.register_as_hex(session, name);
        sidetrack::Service::from_hex(&hex).expect("the credentials are valid")
    }

    /// The same, with the credentials as text for the environment variable SIDETRACK_LISTEN.
    pub fn register_as_hex(&mut self, session: &Session, name: &str) -> String {
        let request = v1::RegisterServiceRequest {
            session_id: session.id(),
            service: Some(v1::register_service_request::Service::Name(name.into())),
        };
        let answer = self.call(async |client| client.register_service(request).await);
        let answer = answer.unwrap_or_else(|status| panic!("{status}"));
        answer.into_inner().credentials_hex
    }

    /// Returns whether a proxy of the service with this name listens.
    pub fn is_listening(&mut self, name: &str) -> bool {
        let services = self.call(async |client| {
            let mut lists = client
                .list_services(v1::ListRequest::default())
                .await?
                .into_inner();
            let mut services = Vec::new();
            while let Some(list) = lists.message().await? {
                services.extend(list.services);
            }
            Ok::<_, tonic::Status>(services)
        });
        let services = services.expect("the daemon lists its services");
        services
            .iter()
            .any(|service| service.name == name && service.listening)
    }

    /// The value of a counter of the kernel side.
    pub fn counter(&mut self, name: &str) -> u64 {
        let counters = self.state().counters;
        let counter = counters.iter().find(|counter| counter.name == name);
        counter.expect("the counter exists").value
    }

    /// The number of entries that a table of the kernel side has.
    pub fn table(&mut self, name: &str) -> u64 {
        let tables = self.state().tables;
        let table = tables.iter().find(|table| table.name == name);
        table.expect("the table exists").used
    }

    /// The daemon's state: the generation, and how many objects of each kind are in force.
    pub fn state(&mut self) -> v1::State {
        let answer = self.call(async |client| client.get_state(v1::GetStateRequest {}).await);
        answer.expect("the daemon reports its state").into_inner()
    }
}
