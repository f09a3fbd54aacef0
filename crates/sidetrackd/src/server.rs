//! The server of the API. Each call identifies the caller, checks its permission, converts the
//! request to policy's types, and converts the result to a message. sidetrack.proto of the crate
//! sidetrack-api documents the calls.

mod admission;
mod call;
mod connection;
mod explanation;
mod listing;
mod message;
mod queries;
mod socket;
mod status;

use std::sync::Arc;
use std::time::SystemTime;

use sidetrack_api::config::Config;
use sidetrack_api::v1;
use sidetrack_api::v1::sidetrack_server::SidetrackServer;
use sidetrack_policy::{Filter, Provider, Service, Sublayer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use self::admission::Admission;
use self::connection::Incoming;
pub use self::socket::listen;
use crate::Error;
use crate::access::{Access, Denied, Peer};
use crate::committer::Handle;
use crate::event::EventLog;
use crate::session::{Session, Sessions};

/// Maximum number of calls in progress on one connection. A further one waits.
pub const CALLS_PER_CONNECTION_MAX: u32 = 64;
/// Maximum number of calls in progress from root, and from all other users together. Each keeps its
/// request in memory. A further one is refused.
pub const CALLS_MAX: usize = 256;
/// Maximum number of `ApplyPolicy` calls in memory from root, and from all other users together. A
/// further one waits.
pub const POLICIES_MAX: usize = 1;
/// Number of bytes that a connection, and a stream, may send before the server has read them: the
/// HTTP/2 windows.
const WINDOW: u32 = 256 << 10;
/// Maximum size, in bytes, of a request to the reflection service.
const REFLECTION_REQUEST_SIZE_MAX: usize = 16 << 10;
/// Maximum size, in bytes, of a request other than `ApplyPolicy`.
pub const CALL_SIZE_MAX: usize = 1 << 20;

/// The API's implementation. Clones share their state.
#[derive(Clone)]
pub struct Api {
    access: Access,
    committer: Handle,
    sessions: Arc<Sessions>,
    log: EventLog,
    started: SystemTime,
}

/// The result of a call.
type ApiResult<T> = Result<Response<T>, Status>;
/// A list as a stream of messages, with several objects each.
type ListStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// Creates the API of a running committer. Errors: [`Error::UnknownGroup`].
    pub fn new(config: &Config, committer: Handle, log: EventLog) -> Result<Self, Error> {
        Ok(Self {
            access: Access::new(&config.access)?,
            sessions: Sessions::new(config, committer.clone(), log.clone()),
            committer,
            log,
            started: SystemTime::now(),
        })
    }

    /// Serves connections, at most `connections` at a time, until `stop` completes.
    ///
    /// Errors: [`Error::Reflection`], [`Error::Transport`].
    pub async fn serve(
        self,
        listener: UnixListener,
        connections: usize,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(sidetrack_api::DESCRIPTOR)
            .build_v1()?
            .max_decoding_message_size(REFLECTION_REQUEST_SIZE_MAX);
        tokio::spawn(Arc::clone(&self.sessions).end_unresumed());
        let sessions = Arc::clone(&self.sessions);
        let stopped = async move {
            stop.await;
            sessions.stop();
        };
        // A session's stream lasts until its client closes it, so stopping does not wait for
        // streams.
        let serve = Server::builder()
            .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .http2_max_header_list_size(16 << 10)
            .add_service(Admission::new(self))
            .add_service(reflection)
            .serve_with_incoming(Incoming::new(listener, connections));
        tokio::select! {
            result = serve => Ok(result?),
            () = stopped => Ok(()),
        }
    }

    /// Returns the caller, if it may read. Errors: [`Error::Denied`].
    fn reader<T>(&self, request: &Request<T>) -> Result<Peer, Error> {
        let peer = peer(request)?;
        self.access.check_read(&peer)?;
        Ok(peer)
    }

    /// Returns the caller, if it may write. Errors: [`Error::Denied`].
    fn writer<T>(&self, request: &Request<T>) -> Result<Peer, Error> {
        let peer = peer(request)?;
        self.access.check_write(&peer)?;
        Ok(peer)
    }

    /// Returns the session of a call in which it is optional. Errors: FWP_E_SESSION_ABORTED.
    fn session(&self, id: u64, peer: &Peer) -> Result<Option<Arc<Session>>, Error> {
        match id {
            0 => Ok(None),
            id => self.sessions.find(id, peer).map(Some),
        }
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Error> {
    let peer = request.extensions().get::<Peer>().cloned();
    Ok(peer.ok_or(Denied::UnknownCaller)?)
}

#[tonic::async_trait]
impl v1::sidetrack_server::Sidetrack for Api {
    type OpenSessionStream = call::SessionStream;
    type ListProvidersStream = ListStream<v1::ProviderList>;
    type ListSublayersStream = ListStream<v1::SublayerList>;
    type ListServicesStream = ListStream<v1::ServiceList>;
    type ListFiltersStream = ListStream<v1::FilterList>;
    type ListFlowsStream = ListStream<v1::FlowList>;
    type StreamEventsStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn version(&self, _: Request<v1::VersionRequest>) -> ApiResult<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            api: sidetrack_api::API_VERSION,
        }))
    }

    async fn open_session(
        &self,
        request: Request<v1::SessionOptions>,
    ) -> ApiResult<Self::OpenSessionStream> {
        let peer = self.reader(&request)?;
        Ok(Response::new(self.open(peer, request.into_inner())?))
    }

    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> ApiResult<v1::BeginTransactionResponse> {
        let peer = match request.get_ref().read_only {
            true => self.reader(&request)?,
            false => self.writer(&request)?,
        };
        let request = request.into_inner();
        let session = self.sessions.find(request.session_id, &peer)?;
        let generation = self.sessions.begin(&session, request.read_only).await?;
        Ok(Response::new(v1::BeginTransactionResponse { generation }))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> ApiResult<v1::CommitResponse> {
        let peer = self.reader(&request)?;
        let session = self.sessions.find(request.get_ref().session_id, &peer)?;
        let generation = self.sessions.commit(&session).await?;
        Ok(Response::new(v1::CommitResponse { generation }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> ApiResult<v1::AbortResponse> {
        let peer = self.reader(&request)?;
        let session = self.sessions.find(request.get_ref().session_id, &peer)?;
        self.sessions.abort(&session).await?;
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn add_provider(
        &self,
        request: Request<v1::AddProviderRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = self.writer(&request)?;
        let request = request.into_inner();
        let object = call::required("provider", request.provider)?;
        self.add::<Provider>(request.session_id, &peer, object)
            .await
    }

    async fn add_sublayer(
        &self,
        request: Request<v1::AddSublayerRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = self.writer(&request)?;
        let request = request.into_inner();
        let object = call::required("sublayer", request.sublayer)?;
        self.add::<Sublayer>(request.session_id, &peer, object)
            .await
    }

    async fn add_service(
        &self,
        request: Request<v1::AddServiceRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = self.writer(&request)?;
        let request = request.into_inner();
        let object = call::required("service", request.service)?;
        self.add::<Service>(request.session_id, &peer, object).await
    }

    async fn add_filter(
        &self,
        request: Request<v1::AddFilterRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = self.writer(&request)?;
        let request = request.into_inner();
        let object = call::required("filter", request.filter)?;
        self.add::<Filter>(request.session_id, &peer, object).await
    }

    async fn delete_provider(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> ApiResult<v1::DeleteResponse> {
        self.delete::<Provider>(request).await
    }

    async fn delete_sublayer(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> ApiResult<v1::DeleteResponse> {
        self.delete::<Sublayer>(request).await
    }

    async fn delete_service(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> ApiResult<v1::DeleteResponse> {
        self.delete::<Service>(request).await
    }

    async fn delete_filter(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> ApiResult<v1::DeleteResponse> {
        self.delete::<Filter>(request).await
    }

    async fn get_provider(&self, request: Request<v1::GetRequest>) -> ApiResult<v1::Provider> {
        self.get::<Provider>(request).await
    }

    async fn get_sublayer(&self, request: Request<v1::GetRequest>) -> ApiResult<v1::Sublayer> {
        self.get::<Sublayer>(request).await
    }

    async fn get_service(&self, request: Request<v1::GetRequest>) -> ApiResult<v1::Service> {
        let mut response = self.get::<Service>(request).await?;
        let listening = self.listening().await?;
        queries::set_listening(response.get_mut(), &listening);
        Ok(response)
    }

    async fn get_filter(&self, request: Request<v1::GetRequest>) -> ApiResult<v1::Filter> {
        self.get::<Filter>(request).await
    }

    async fn list_providers(
        &self,
        request: Request<v1::ListRequest>,
    ) -> ApiResult<Self::ListProvidersStream> {
        let messages = self.list::<Provider>(request).await?;
        Ok(listing::response(messages, |providers| v1::ProviderList {
            providers,
        }))
    }

    async fn list_sublayers(
        &self,
        request: Request<v1::ListRequest>,
    ) -> ApiResult<Self::ListSublayersStream> {
        let messages = self.list::<Sublayer>(request).await?;
        Ok(listing::response(messages, |sublayers| v1::SublayerList {
            sublayers,
        }))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListRequest>,
    ) -> ApiResult<Self::ListServicesStream> {
        let messages = self.list::<Service>(request).await?;
        let listening = self.listening().await?;
        Ok(listing::response(messages, move |mut services| {
            let each = services.iter_mut();
            each.for_each(|service| queries::set_listening(service, &listening));
            v1::ServiceList { services }
        }))
    }

    async fn list_filters(
        &self,
        request: Request<v1::ListRequest>,
    ) -> ApiResult<Self::ListFiltersStream> {
        let messages = self.list::<Filter>(request).await?;
        Ok(listing::response(messages, |filters| v1::FilterList {
            filters,
        }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> ApiResult<v1::ApplyPolicyResponse> {
        let peer = self.writer(&request)?;
        self.apply(&peer, request.into_inner()).await
    }

    async fn register_service(
        &self,
        request: Request<v1::RegisterServiceRequest>,
    ) -> ApiResult<v1::RegisterServiceResponse> {
        let peer = self.writer(&request)?;
        self.register(&peer, request.into_inner()).await
    }

    async fn get_state(&self, request: Request<v1::GetStateRequest>) -> ApiResult<v1::State> {
        self.reader(&request)?;
        Ok(Response::new(self.state().await?))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> ApiResult<Self::ListFlowsStream> {
        self.reader(&request)?;
        let flows = self.flows(request.get_ref().closed).await?;
        Ok(listing::response(flows.into_iter().map(Ok), |flows| {
            v1::FlowList { flows }
        }))
    }

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> ApiResult<Self::StreamEventsStream> {
        self.reader(&request)?;
        Ok(Response::new(self.events(request.into_inner())?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> ApiResult<v1::ExplainResponse> {
        self.reader(&request)?;
        Ok(Response::new(self.explanation(request.into_inner()).await?))
    }
}
