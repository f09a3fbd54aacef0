//! Calls that query the daemon's state, flows and events, and that explain connections.

use std::sync::Arc;

use sidetrack_api::v1;
use sidetrack_policy::{Code, Error as Refusal, Filter, Listeners, Provider, Service, Sublayer};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::explanation::{self, ExplainRequest};
use super::message::{self, unix_ns};
use super::{Api, Error};
use crate::data_path::ServiceStatus;
use crate::event::Event;

/// Maximum number of events in the queue of one reader, in addition to those by which it may lag
/// behind.
const QUEUE_MAX: usize = 16;

impl Api {
    pub(super) async fn state(&self, uid: u32) -> Result<v1::State, Error> {
        let usage = self
            .committer
            .run(uid, |committer| committer.data_path().usage())
            .await??;
        let mut state = v1::State::default();
        message::set_usage(&mut state, usage);
        let in_force = self.committer.in_force();
        let objects = &in_force.objects;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        state.version = env!("CARGO_PKG_VERSION").into();
        state.generation = in_force.generation;
        state.committed_unix_ns = unix_ns(in_force.since);
        state.started_unix_ns = unix_ns(self.started);
        state.providers = count(objects.all::<Provider>().len());
        state.sublayers = count(objects.all::<Sublayer>().len());
        state.services = count(objects.all::<Service>().len());
        state.filters = count(objects.all::<Filter>().len());
        let of_sessions = objects.count_sessions();
        let object_count = |session| count(of_sessions.get(&session).copied().unwrap_or(0));
        let open = self.sessions.open_sessions();
        let open = open
            .iter()
            .map(|one| message::session_state(one, object_count(one.id)));
        let resumable = self.sessions.resumable().into_iter();
        let resumable = resumable
            .map(|(session, uid)| message::resumable_session(session, uid, object_count(session)));
        state.sessions = open.chain(resumable).collect();
        let holder = self.sessions.write_lock().holder();
        state.writer = holder.map(|holder| v1::TransactionState {
            session_id: holder.session,
            held_ms: holder
                .since
                .elapsed()
                .as_millis()
                .try_into()
                .unwrap_or(u64::MAX),
        });
        state.writers_waiting = self.sessions.write_lock().waiting();
        state.notes.extend(in_force.notes);
        Ok(state)
    }

    /// Returns the services in force, with their listeners.
    pub(super) async fn service_statuses(&self, uid: u32) -> Result<Vec<ServiceStatus>, Error> {
        let task = self
            .committer
            .run(uid, |committer| committer.data_path().services());
        Ok(task.await??)
    }

    pub(super) async fn explanation(
        &self,
        uid: u32,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error> {
        let request = ExplainRequest::try_from(request)?;
        self.committer
            .run(uid, move |committer| {
                explanation::explanation(committer, &request)
            })
            .await?
    }

    pub(super) fn events(
        &self,
        request: v1::StreamEventsRequest,
    ) -> Result<ReceiverStream<Result<v1::Event, Status>>, Error> {
        for number in &request.kinds {
            if v1::EventKind::try_from(*number).is_err() {
                let text = format!("there is no event kind {number}");
                return Err(Refusal::new(Code::InvalidEnumerator, text).into());
            }
        }
        let (kept, live) = self.log.subscribe();
        let last = kept.last().map_or(0, |event| event.sequence);
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let reader = EventReader {
            sender,
            kinds: request.kinds,
        };
        tokio::spawn(async move {
            if request.backlog || !request.follow {
                reader.send_matching(kept).await?;
            }
            if request.follow {
                reader.follow(live, last).await?;
            }
            Some(())
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Sends events to a client. Its methods return `None` once the client does not read any more.
struct EventReader {
    sender: mpsc::Sender<Result<v1::Event, Status>>,
    kinds: Vec<i32>,
}

impl EventReader {
    /// Sends the events whose kind the client has requested, and those that say that events were
    /// lost.
    async fn send_matching(&self, events: impl IntoIterator<Item = Arc<Event>>) -> Option<()> {
        for event in events {
            let kind = message::event_kind(&event.kind);
            let always = kind == v1::EventKind::Missed || self.kinds.is_empty();
            if always || self.kinds.contains(&kind.into()) {
                self.sender.send(Ok(message::event(&event))).await.ok()?;
            }
        }
        Some(())
    }

    /// Sends events as they happen, until the client or the log ends. `last` is the number of the
    /// last event before them.
    async fn follow(&self, mut live: broadcast::Receiver<Arc<Event>>, mut last: u64) -> Option<()> {
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = self.sender.closed() => return None,
            };
            match event {
                Ok(event) => {
                    let missed = event.previous() - last;
                    if missed > 0 {
                        let event = message::missed_event(missed);
                        self.sender.send(Ok(event)).await.ok()?;
                    }
                    last = event.sequence;
                    self.send_matching([event]).await?;
                }
                // The number of the next event says how many were missed: among them can be one
                // that stands for many.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Sets the fields of a service about its listeners.
pub(super) fn set_listeners(service: &mut v1::Service, statuses: &[ServiceStatus]) {
    let mut statuses = statuses.iter();
    let found = statuses.find(|status| status.key.as_bytes() == &*service.key);
    let listeners = found.map_or(Listeners::default(), |status| status.listeners);
    service.listening = listeners.tcp() != (0, 0);
    service.listeners = Some(listeners.into());
}
