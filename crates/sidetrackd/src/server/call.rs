//! Calls that open sessions, read and change objects, and register services.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidetrack_api::v1;
use sidetrack_policy::set::{Change, Desired, Difference, Object, ObjectKind, Operation};
use sidetrack_policy::{
    Code, Error as Refusal, Filter, Lifetime, Objects, Provider, Service, Sublayer, Uuid,
};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::listing::{ApiObject, ObjectMessages};
use super::{Api, ApiResult, message, peer};
use crate::Error;
use crate::access::Peer;
use crate::session::{Session, SessionEvent, SessionOptions, Sessions};

/// The stream of a session's events. It is dropped when the client closes it or dies, and then the
/// session ends.
pub struct SessionStream {
    /// The event `opened`, until it is sent.
    first: Option<v1::session_event::Event>,
    events: mpsc::Receiver<SessionEvent>,
    session: Arc<Session>,
    sessions: Arc<Sessions>,
    runtime: Runtime,
}

impl Stream for SessionStream {
    type Item = Result<v1::SessionEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = match self.first.take() {
            Some(first) => Some(first),
            None => std::task::ready!(self.events.poll_recv(context)).map(message::session_event),
        };
        Poll::Ready(event.map(|event| Ok(v1::SessionEvent { event: Some(event) })))
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        let (sessions, session) = (Arc::clone(&self.sessions), Arc::clone(&self.session));
        self.runtime
            .spawn(async move { sessions.end(&session).await });
    }
}

impl Api {
    pub(super) fn open(
        &self,
        peer: Peer,
        options: v1::SessionOptions,
    ) -> Result<SessionStream, Error> {
        let reach = self.access.reach(&peer);
        let (session, events) = self.sessions.open(peer, reach, session_options(options))?;
        let session_id = session.id;
        Ok(SessionStream {
            first: Some(v1::session_event::Event::Opened(v1::SessionOpened {
                session_id,
            })),
            events,
            session,
            sessions: Arc::clone(&self.sessions),
            runtime: Runtime::current(),
        })
    }

    pub(super) async fn add<T: ApiObject>(
        &self,
        session: u64,
        peer: &Peer,
        object: T::Message,
    ) -> ApiResult<v1::AddResponse> {
        let session = self.sessions.find(session, peer)?;
        let object = T::try_from(object).map_err(Error::from)?;
        let change = self.sessions.change(&session, |objects, author| {
            let key = objects.add(object, author, Uuid::new_v4)?;
            Ok((key, objects.get::<T>(key)?.id()))
        });
        let ((key, id), _) = change.await?;
        Ok(Response::new(v1::AddResponse {
            key: sidetrack_api::key_bytes(key),
            id,
        }))
    }

    pub(super) async fn delete<T: Object>(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> ApiResult<v1::DeleteResponse> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let session = self.sessions.find(request.session_id, &peer)?;
        let key = key(&request.key)?;
        let change = self.sessions.change(&session, move |objects, author| {
            objects.delete::<T>(key, author)
        });
        change.await?;
        Ok(Response::new(v1::DeleteResponse {}))
    }

    pub(super) async fn get<T: ApiObject>(
        &self,
        request: Request<v1::GetRequest>,
    ) -> ApiResult<T::Message> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let session = self.session(request.session_id, &peer)?;
        let key = key(&request.key)?;
        let objects = self.sessions.view(session.as_deref()).await?;
        let entry = objects.entry::<T>(key).map_err(Error::from)?;
        Ok(Response::new(T::message(entry)))
    }

    pub(super) async fn list<T: ApiObject>(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<ObjectMessages<T>, Error> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let session = self.session(request.session_id, &peer)?;
        let provider = sidetrack_api::key(&request.provider)?;
        let objects = self.sessions.view(session.as_deref()).await?;
        Ok(ObjectMessages::new(objects, provider))
    }

    pub(super) async fn apply(
        &self,
        peer: &Peer,
        request: v1::ApplyPolicyRequest,
    ) -> ApiResult<v1::ApplyPolicyResponse> {
        let session = self.sessions.find(request.session_id, peer)?;
        let (dry_run, owner) = (request.dry_run, request.owner.clone());
        let desired =
            tokio::task::block_in_place(|| desired_policy(request)).map_err(Error::from)?;
        if let Some(adopted) = self.committer.in_force().adopted
            && desired.filters.is_empty()
        {
            return Err(Error::Adopted(adopted).into());
        }
        let mut author = session.author();
        author.owner = Some(owner.into());
        if dry_run {
            let before = self.sessions.view(Some(&session)).await?;
            let generation = self.committer.in_force().generation;
            let response = tokio::task::block_in_place(|| {
                let mut after = before.clone();
                let difference = after.apply(desired, &author)?;
                let mut response = apply_response(&difference, generation);
                let changes = difference.changes.iter();
                response.changes = changes
                    .map(|each| change_message(*each, &before, &after))
                    .collect();
                Ok(response)
            });
            return Ok(Response::new(response.map_err(Error::Policy)?));
        }
        let change = self.sessions.change(&session, move |objects, _| {
            // A policy that fails must change nothing, so it is applied to a copy.
            let mut after = objects.clone();
            let difference = after.apply(desired, &author)?;
            *objects = after;
            Ok(difference)
        });
        let (difference, generation) = change.await?;
        Ok(Response::new(apply_response(&difference, generation)))
    }

    pub(super) async fn register(
        &self,
        peer: &Peer,
        request: v1::RegisterServiceRequest,
    ) -> ApiResult<v1::RegisterServiceResponse> {
        use v1::register_service_request::Service as By;
        let session = self.sessions.find(request.session_id, peer)?;
        let by = required("service", request.service)?;
        let pid = peer.pid;
        let uid = peer.uid;
        let task = self
            .committer
            .run(uid, move |committer| -> Result<_, Error> {
                let objects = committer.in_force().objects;
                let entry = match by {
                    By::Key(bytes) => objects.entry::<Service>(key(&bytes)?)?,
                    By::Name(name) => objects.service_named(&name, uid)?,
                };
                let name = &entry.object.identity.name;
                let dynamic = entry.object.lifetime == Lifetime::Dynamic;
                if dynamic && entry.author.session != Some(session.id) {
                    let text = format!("service {name:?} belongs to another session");
                    return Err(Refusal::new(Code::WrongSession, text).into());
                }
                if uid != 0 && entry.author.uid != uid {
                    let text = format!("service {name:?} was not added by user {uid}");
                    return Err(Refusal::new(Code::WrongSession, text).into());
                }
                let key = entry.object.identity.key;
                let credentials = committer.data_path().register(key, pid, uid)?;
                Ok((key, credentials))
            });
        let (key, credentials) = task.await??;
        let credentials_hex = credentials.iter().map(|byte| format!("{byte:02x}"));
        Ok(Response::new(v1::RegisterServiceResponse {
            key: sidetrack_api::key_bytes(key),
            credentials_hex: credentials_hex.collect(),
            credentials,
        }))
    }
}

fn session_options(options: v1::SessionOptions) -> SessionOptions {
    let wait_ms = options.txn_wait_timeout_ms.filter(|ms| *ms != 0);
    SessionOptions {
        name: options.name,
        description: options.description,
        dynamic: options.dynamic,
        wait: wait_ms.map(|ms| Duration::from_millis(ms.into())),
        resume: Some(options.resume_session_id).filter(|id| *id != 0),
    }
}

/// Returns a required part of a request. Errors: FWP_E_NULL_POINTER.
pub(super) fn required<T>(what: &str, part: Option<T>) -> Result<T, Error> {
    part.ok_or_else(|| Refusal::new(Code::NullPointer, format!("the call has no {what}")).into())
}

/// Returns a required key. Errors: FWP_E_NULL_POINTER, FWP_E_INVALID_PARAMETER.
fn key(bytes: &[u8]) -> Result<Uuid, Error> {
    required("key", sidetrack_api::key(bytes)?)
}

fn desired_policy(request: v1::ApplyPolicyRequest) -> Result<Desired, Refusal> {
    fn convert<M, T: TryFrom<M, Error = Refusal>>(messages: Vec<M>) -> Result<Vec<T>, Refusal> {
        messages.into_iter().map(T::try_from).collect()
    }
    Ok(Desired {
        providers: convert(request.providers)?,
        sublayers: convert(request.sublayers)?,
        services: convert(request.services)?,
        filters: convert(request.filters)?,
    })
}

fn apply_response(difference: &Difference, generation: u64) -> v1::ApplyPolicyResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::ApplyPolicyResponse {
        generation,
        added: count(difference.count(Operation::Add)),
        replaced: count(difference.count(Operation::Replace)),
        removed: count(difference.count(Operation::Remove)),
        unchanged: count(difference.unchanged),
        changes: Vec::new(),
    }
}

fn change_message(change: Change, before: &Objects, after: &Objects) -> v1::Change {
    use v1::change::Operation as ApiOperation;
    let operation = match change.operation {
        Operation::Add => ApiOperation::Add,
        Operation::Replace => ApiOperation::Replace,
        Operation::Remove => ApiOperation::Remove,
    };
    v1::Change {
        operation: operation.into(),
        before: object_message(change, before).filter(|_| change.operation != Operation::Add),
        after: object_message(change, after),
    }
}

fn object_message(change: Change, objects: &Objects) -> Option<v1::Object> {
    use v1::object::Kind as ApiKind;
    let kind = match change.kind {
        ObjectKind::Provider => ApiKind::Provider(objects.get::<Provider>(change.key).ok()?.into()),
        ObjectKind::Sublayer => ApiKind::Sublayer(objects.get::<Sublayer>(change.key).ok()?.into()),
        ObjectKind::Service => ApiKind::Service(objects.get::<Service>(change.key).ok()?.into()),
        ObjectKind::Filter => ApiKind::Filter(objects.get::<Filter>(change.key).ok()?.into()),
    };
    Some(v1::Object { kind: Some(kind) })
}
