//! Admits calls before any of their bytes are decoded: the caller must have the right to make the
//! call, and may not exceed its quotas. A client that makes many calls, or sends large ones, can
//! neither fill the memory nor keep others out.

use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::service::Routes;
use tonic_reflection::server::Builder;

use super::activity::Activity;
use super::body::{ARRIVAL_MAX, AnswerBody, CallInProgress, RequestBody, RequestBytes};
use super::method::{Class, Method};
use super::{
    Api, CALL_SIZE_MAX, CALLS_MAX, CHANGE_SIZE_MAX, POLICY_SIZE_MAX, REQUEST_BYTES_MAX,
    STREAMS_MAX, SidetrackServer,
};
use crate::Error;
use crate::access::Peer;
use crate::fair::FairLock;
use crate::quota::Quota;

/// The API, with the bounds of its calls. Clones share them.
#[derive(Clone)]
pub(super) struct Admission(Arc<Shared>);

struct Shared {
    api: Arc<Api>,
    reflection: Routes,
    calls: Arc<Quota>,
    streams: Arc<Quota>,
    request_bytes: Arc<Quota>,
    policies: LocksByUser,
    explanations: LocksByUser,
}

/// A lock for root, and one for all other users. Root does not wait for the others.
#[derive(Default)]
struct LocksByUser {
    root: FairLock,
    others: FairLock,
}

/// The client of a connection.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) activity: Arc<Activity>,
}

type Response = http::Response<Body>;

impl Admission {
    /// Errors: [`Error::Reflection`].
    pub(super) fn new(api: Api) -> Result<Self, Error> {
        let reflection = Builder::configure()
            .register_encoded_file_descriptor_set(sidetrack_api::DESCRIPTOR)
            .build_v1()?
            .max_decoding_message_size(CALL_SIZE_MAX);
        Ok(Self(Arc::new(Shared {
            api: Arc::new(api),
            reflection: Routes::new(reflection),
            calls: Quota::new("calls in progress", CALLS_MAX),
            streams: Quota::new("lists and streams of events in progress", STREAMS_MAX),
            request_bytes: Quota::new("bytes of calls in memory", REQUEST_BYTES_MAX),
            policies: LocksByUser::default(),
            explanations: LocksByUser::default(),
        })))
    }

    /// Creates the state of a connection.
    pub(super) fn client(&self, peer: Peer) -> Client {
        let may_idle = self.0.api.access.check_read(&peer).is_ok();
        Client {
            peer,
            activity: Activity::new(may_idle),
        }
    }

    /// Answers a call.
    pub(super) async fn answer(
        &self,
        client: Client,
        request: http::Request<Incoming>,
    ) -> Response {
        let answer = self.admit(client, request).await;
        answer.unwrap_or_else(Status::into_http)
    }

    /// Errors: UNIMPLEMENTED, PERMISSION_DENIED, RESOURCE_EXHAUSTED.
    async fn admit(
        &self,
        client: Client,
        request: http::Request<Incoming>,
    ) -> Result<Response, Status> {
        let active = client.activity.begin();
        let path = request.uri().path();
        let method = Method::find(path)
            .ok_or_else(|| Status::unimplemented(format!("the API has no call {path}")))?;
        let (uid, class) = (client.peer.uid, method.class);
        method
            .check(&self.0.api.access, &client.peer)
            .map_err(Error::from)?;
        let mut call = CallInProgress {
            active,
            portion: Some(self.0.quota(class).take(uid).map_err(Error::from)?),
            guard: None,
            bytes: self.0.request_bytes(class, uid)?,
            must_be_read: !matches!(class, Class::Session | Class::Follow | Class::Reflection),
        };
        // The request is not read while it waits; HTTP/2 flow control keeps its bytes at the sender.
        if let Some(lock) = self.0.lock(class, uid) {
            call.guard = Some(lock.acquire(uid).await);
        }
        let request = request.map(|body| {
            Body::new(RequestBody {
                body,
                deadline: (class != Class::Reflection)
                    .then(|| Box::pin(tokio::time::sleep(ARRIVAL_MAX))),
                bytes: call.bytes.clone(),
            })
        });
        let response = self.0.serve(class, client.peer, request).await;
        if class == Class::Session {
            // From here on it counts as a session.
            call.portion = None;
        }
        if uid == 0 {
            // A client of root that does not read keeps no other client of root waiting.
            call.guard = None;
        }
        Ok(response.map(|body| Body::new(AnswerBody::new(body, call))))
    }
}

impl Shared {
    fn quota(&self, class: Class) -> &Arc<Quota> {
        match class {
            Class::List | Class::Follow | Class::Reflection => &self.streams,
            _ => &self.calls,
        }
    }

    /// Returns where the bytes of a request are counted. A policy has its own size limit, and only
    /// one is in memory at a time.
    fn request_bytes(&self, class: Class, uid: u32) -> Result<Option<RequestBytes>, Error> {
        if class == Class::Policy {
            return Ok(None);
        }
        let portion = self.request_bytes.take(uid)?;
        Ok(Some(Arc::new(Mutex::new(portion))))
    }

    /// Returns the lock for which calls of a class wait.
    fn lock(&self, class: Class, uid: u32) -> Option<&FairLock> {
        let lock = match class {
            Class::Policy => &self.policies,
            Class::Explanation => &self.explanations,
            _ => return None,
        };
        Some(if uid == 0 { &lock.root } else { &lock.others })
    }

    async fn serve(&self, class: Class, peer: Peer, mut request: http::Request<Body>) -> Response {
        let size = match class {
            Class::Policy if peer.uid == 0 => sidetrack_api::MESSAGE_SIZE_MAX,
            Class::Policy => POLICY_SIZE_MAX,
            Class::Change => CHANGE_SIZE_MAX,
            _ => CALL_SIZE_MAX,
        };
        request.extensions_mut().insert(peer);
        let answer = if class == Class::Reflection {
            self.reflection.clone().call(request).await
        } else {
            SidetrackServer::from_arc(Arc::clone(&self.api))
                .max_decoding_message_size(size)
                .max_encoding_message_size(sidetrack_api::MESSAGE_SIZE_MAX)
                .call(request)
                .await
        };
        answer.unwrap_or_else(|never| match never {})
    }
}
