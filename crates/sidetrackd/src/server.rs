//! The server of the API. Each call is admitted, which checks the caller's right; its request is
//! converted to policy's types, and its result to a message. sidetrack.proto of the crate
//! sidetrack-api documents the calls.

mod activity;
mod admission;
mod authority;
mod body;
mod call;
mod connection;
mod explanation;
mod flows;
mod listing;
mod message;
mod method;
mod pended;
mod queries;
mod runtime;
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
use tonic::{Request, Response, Status};

pub use self::activity::{FIRST_CALL_MAX, IDLE_MAX, UNREAD_MAX};
use self::admission::Admission;
pub use self::body::ARRIVAL_MAX;
pub use self::pended::{PENDED_CLIENT_TIME_MAX, PENDED_CLIENTS_MAX};
use self::runtime::OtherUsersRuntime;
pub use self::socket::listen;
use crate::Error;
use crate::access::{Access, Denied, Peer};
use crate::committer::Handle;
use crate::event::EventLog;
use crate::quota::Quota;
use crate::session::{Session, Sessions};

/// Maximum number of calls in progress on one connection. A further one waits.
pub const CALLS_PER_CONNECTION_MAX: u32 = 64;
/// Quota of calls in progress, except for streams. A call counts until its answer is read.
pub const CALLS_MAX: usize = 256;
/// Quota of lists and streams of events in progress.
pub const STREAMS_MAX: usize = 64;
/// Quota of bytes of calls in memory, except for those of policies.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Maximum size, in bytes, of a request that adds an object.
pub const CHANGE_SIZE_MAX: usize = 1 << 20;
/// Maximum size, in bytes, of an `ApplyPolicy` request of a user other than root. Root's may have
/// [`sidetrack_api::MESSAGE_SIZE_MAX`].
pub const POLICY_SIZE_MAX: usize = 16 << 20;
/// Maximum size, in bytes, of any other request.
pub const CALL_SIZE_MAX: usize = 16 << 10;
/// Number of bytes that a connection, and a stream, may send before the server has read them: the
/// HTTP/2 windows.
const WINDOW: u32 = 64 << 10;
/// Number of bytes of an answer that wait in memory to be sent on a connection, besides the message
/// that is being sent.
const SEND_BUFFER_MAX: usize = 64 << 10;
/// Maximum size, in bytes, of the headers of a request.
const HEADERS_SIZE_MAX: u32 = 4 << 10;

/// The daemon's sockets, which listen.
#[derive(Debug)]
pub struct Sockets {
    /// That of the API.
    pub api: UnixListener,
    /// That from which proxies get the descriptors for pended connects.
    pub pended: UnixListener,
}

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

    /// Serves connections, at most `connections` at a time to the API, until `stop` completes. Root's are
    /// served in this runtime, and those of other users in another one, with a lower priority.
    ///
    /// Errors: [`Error::Reflection`], [`Error::Runtime`].
    pub async fn serve(
        self,
        sockets: Sockets,
        connections: usize,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let others = OtherUsersRuntime::start().map_err(Error::Runtime)?;
        let sessions = Arc::clone(&self.sessions);
        tokio::spawn(Arc::clone(&sessions).end_unresumed());
        let committer = self.committer.clone();
        let admission = Admission::new(self)?;
        let calls = connection::accept_all(
            sockets.api,
            Quota::new("connections", connections),
            others.handle.clone(),
            |stream, peer, portion| connection::serve(stream, peer, portion, admission.clone()),
        );
        let descriptors = connection::accept_all(
            sockets.pended,
            Quota::new("clients that ask for descriptors", PENDED_CLIENTS_MAX),
            others.handle.clone(),
            |stream, peer, portion| pended::serve(stream, peer, portion, committer.clone()),
        );
        // A session's stream lasts until its client closes it, so stopping does not wait for
        // streams.
        tokio::select! {
            never = calls => match never {},
            never = descriptors => match never {},
            () = stop => sessions.stop(),
        }
        Ok(())
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
        let peer = peer(&request)?;
        Ok(Response::new(self.open(peer, request.into_inner())?))
    }

    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> ApiResult<v1::BeginTransactionResponse> {
        let peer = peer(&request)?;
        if !request.get_ref().read_only {
            self.access.check_write(&peer).map_err(Error::from)?;
        }
        let request = request.into_inner();
        let session = self.sessions.find(request.session_id, &peer)?;
        let generation = self.sessions.begin(&session, request.read_only).await?;
        Ok(Response::new(v1::BeginTransactionResponse { generation }))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> ApiResult<v1::CommitResponse> {
        let peer = peer(&request)?;
        let session = self.sessions.find(request.get_ref().session_id, &peer)?;
        let generation = self.sessions.commit(&session).await?;
        Ok(Response::new(v1::CommitResponse { generation }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> ApiResult<v1::AbortResponse> {
        let peer = peer(&request)?;
        let session = self.sessions.find(request.get_ref().session_id, &peer)?;
        self.sessions.abort(&session).await?;
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn add_provider(
        &self,
        request: Request<v1::AddProviderRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let object = call::required("provider", request.provider)?;
        self.add::<Provider>(request.session_id, &peer, object)
            .await
    }

    async fn add_sublayer(
        &self,
        request: Request<v1::AddSublayerRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let object = call::required("sublayer", request.sublayer)?;
        self.add::<Sublayer>(request.session_id, &peer, object)
            .await
    }

    async fn add_service(
        &self,
        request: Request<v1::AddServiceRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let object = call::required("service", request.service)?;
        self.add::<Service>(request.session_id, &peer, object).await
    }

    async fn add_filter(
        &self,
        request: Request<v1::AddFilterRequest>,
    ) -> ApiResult<v1::AddResponse> {
        let peer = peer(&request)?;
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
        let uid = peer(&request)?.uid;
        let mut response = self.get::<Service>(request).await?;
        let statuses = self.service_statuses(uid).await?;
        queries::set_listeners(response.get_mut(), &statuses);
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
        let uid = peer(&request)?.uid;
        let messages = self.list::<Service>(request).await?;
        let statuses = self.service_statuses(uid).await?;
        Ok(listing::response(messages, move |mut services| {
            let each = services.iter_mut();
            each.for_each(|service| queries::set_listeners(service, &statuses));
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
        let peer = peer(&request)?;
        self.apply(&peer, request.into_inner()).await
    }

    async fn register_service(
        &self,
        request: Request<v1::RegisterServiceRequest>,
    ) -> ApiResult<v1::RegisterServiceResponse> {
        let peer = peer(&request)?;
        self.register(&peer, request.into_inner()).await
    }

    async fn get_state(&self, request: Request<v1::GetStateRequest>) -> ApiResult<v1::State> {
        Ok(Response::new(self.state(peer(&request)?.uid).await?))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> ApiResult<Self::ListFlowsStream> {
        let uid = peer(&request)?.uid;
        let flows = self.flows(uid, request.get_ref().closed).await?;
        Ok(Response::new(flows))
    }

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> ApiResult<Self::StreamEventsStream> {
        Ok(Response::new(self.events(request.into_inner())?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> ApiResult<v1::ExplainResponse> {
        let uid = peer(&request)?.uid;
        let answer = self.explanation(uid, request.into_inner());
        Ok(Response::new(answer.await?))
    }
}
