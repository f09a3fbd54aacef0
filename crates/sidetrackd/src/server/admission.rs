//! Limits the size and the number of calls before they are read, so that a client that sends many
//! cannot fill the memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use super::{Api, CALL_SIZE_MAX, CALLS_MAX, POLICIES_MAX, SidetrackServer};
use crate::access::Peer;

const APPLY_POLICY: &str = "/sidetrack.v1.Sidetrack/ApplyPolicy";

/// The API, with one limit for `ApplyPolicy` calls and another for all other calls.
#[derive(Clone)]
pub(super) struct Admission {
    calls: SidetrackServer<Api>,
    policies: SidetrackServer<Api>,
    call_permits: Permits,
    policy_permits: Permits,
}

/// Permits for calls in progress. Root has separate ones, so that other users cannot keep it out.
#[derive(Clone)]
struct Permits {
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Permits {
    fn new(count: usize) -> Self {
        Self {
            root: Arc::new(Semaphore::new(count)),
            others: Arc::new(Semaphore::new(count)),
        }
    }

    /// Returns the permits for the user that sends a request.
    fn for_caller(&self, request: &http::Request<Body>) -> Arc<Semaphore> {
        match request.extensions().get::<Peer>() {
            Some(Peer { uid: 0, .. }) => Arc::clone(&self.root),
            _ => Arc::clone(&self.others),
        }
    }
}

impl Admission {
    pub(super) fn new(api: Api) -> Self {
        let server = |size| {
            SidetrackServer::new(api.clone())
                .max_decoding_message_size(size)
                .max_encoding_message_size(sidetrack_api::MESSAGE_SIZE_MAX)
        };
        Self {
            calls: server(CALL_SIZE_MAX),
            policies: server(sidetrack_api::MESSAGE_SIZE_MAX),
            call_permits: Permits::new(CALLS_MAX),
            policy_permits: Permits::new(POLICIES_MAX),
        }
    }
}

impl Service<http::Request<Body>> for Admission {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() == APPLY_POLICY {
            let permits = self.policy_permits.for_caller(&request);
            let mut server = self.policies.clone();
            // The request is not read while it waits; HTTP/2 flow control keeps its bytes at the
            // sender.
            return Box::pin(async move {
                let _permit = permits.acquire_owned().await;
                server.call(request).await
            });
        }
        let Ok(permit) = self.call_permits.for_caller(&request).try_acquire_owned() else {
            let text = format!("{CALLS_MAX} calls are in progress; try again");
            let refusal = Status::resource_exhausted(text).into_http();
            return Box::pin(async move { Ok(refusal) });
        };
        let mut server = self.calls.clone();
        Box::pin(async move {
            // A call that returns a stream releases its permit once the stream has begun.
            let _permit = permit;
            server.call(request).await
        })
    }
}

impl NamedService for Admission {
    const NAME: &'static str = <SidetrackServer<Api> as NamedService>::NAME;
}
