//! Calls that query the daemon's state, flows and events, and that explain connections.

use std::sync::Arc;
use std::time::SystemTime;

use sidetrack_api::v1;
use sidetrack_policy::{Code, Error as Refusal, Filter, Provider, Service, Sublayer, Uuid};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, Error};
use crate::event::unix_ns;
use crate::session::Session;

/// Maximum number of events in the queue of one reader, in addition to those by which it may lag
/// behind.
const QUEUE_MAX: usize = 16;

impl Api {
    pub(super) async fn state(&self) -> Result<v1::State, Error> {
        let mut state = self
            .committer
            .run(|committer| {
                let mut state = v1::State::default();
                committer.data_path().fill_state(&mut state)?;
                Ok::<_, Error>(state)
            })
            .await??;
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
        let object_count = |session| count(objects.count_session(session));
        let open = self.sessions.open_sessions();
        let open = open
            .iter()
            .map(|one| session_state(one, object_count(one.id)));
        let resumable = self.sessions.resumable().into_iter();
        let resumable = resumable.map(|(session_id, uid)| v1::SessionState {
            session_id,
            uid,
            dynamic: true,
            objects: object_count(session_id),
            waiting: true,
            ..v1::SessionState::default()
        });
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

    pub(super) async fn flows(&self, closed: bool) -> Result<Vec<v1::Flow>, Error> {
        let mut flows = self.committer.run(|committer| committer.flows()).await??;
        flows.retain(|flow| closed || !flow.closed);
        flows.sort_by_key(|flow| flow.id);
        Ok(flows)
    }

    pub(super) async fn listening(&self) -> Result<Vec<Uuid>, Error> {
        let task = self
            .committer
            .run(|committer| committer.data_path().listening());
        Ok(task.await??)
    }

    pub(super) async fn explanation(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error> {
        let refuse = |code, text: &str| Err(Refusal::new(code, text).into());
        match &request.subject {
            None => {
                return refuse(
                    Code::NullPointer,
                    "the call has neither a connection nor a flow_id",
                );
            }
            Some(v1::explain_request::Subject::Connection(connection)) => {
                let Some(remote) = &connection.remote else {
                    return refuse(Code::NullPointer, "the connection has no remote endpoint");
                };
                sidetrack_api::socket_address(remote)?;
                if let Some(local) = &connection.local {
                    sidetrack_api::socket_address(local)?;
                }
                if !matches!(connection.protocol, 0 | 6 | 17) {
                    return refuse(
                        Code::OutOfBounds,
                        "the protocol must be 6 (TCP) or 17 (UDP)",
                    );
                }
            }
            Some(v1::explain_request::Subject::FlowId(_)) => {}
        }
        if v1::Layer::try_from(request.layer).is_err() {
            return refuse(
                Code::LayerNotFound,
                "there is no such layer; the numbers of layers are 1 to 12",
            );
        }
        let task = self.committer.run(move |committer| {
            let in_force = committer.in_force();
            let objects = in_force.objects.after_boot();
            let mut response = committer.data_path().explain(&objects, &request)?;
            response.generation = in_force.generation;
            Ok(response)
        });
        task.await?
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
                reader.follow(live).await?;
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
    /// Sends the events whose kind the client has requested. Events of the kind MISSED are always
    /// sent.
    async fn send_matching(&self, events: impl IntoIterator<Item = Arc<v1::Event>>) -> Option<()> {
        for event in events {
            let is_missed = event.kind == v1::EventKind::Missed as i32;
            if is_missed || self.kinds.is_empty() || self.kinds.contains(&event.kind) {
                self.sender.send(Ok((*event).clone())).await.ok()?;
            }
        }
        Some(())
    }

    /// Sends events as they happen, until the client or the log ends.
    async fn follow(&self, mut live: broadcast::Receiver<Arc<v1::Event>>) -> Option<()> {
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = self.sender.closed() => return None,
            };
            match event {
                Ok(event) => self.send_matching([event]).await?,
                Err(RecvError::Lagged(missed)) => {
                    self.send_matching([Arc::new(missed_event(missed))]).await?
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Sets a service's field `listening`, from the keys of the services that have a listener.
pub(super) fn set_listening(service: &mut v1::Service, listening: &[Uuid]) {
    service.listening = listening.iter().any(|key| key.as_bytes() == &*service.key);
}

fn missed_event(missed: u64) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::Missed.into(),
        time_unix_ns: unix_ns(SystemTime::now()),
        message: format!("{missed} events were lost because the client read them too slowly"),
        missed,
        ..v1::Event::default()
    }
}

fn session_state(session: &Session, objects: u32) -> v1::SessionState {
    v1::SessionState {
        session_id: session.id,
        name: session.name.clone(),
        dynamic: session.dynamic,
        pid: session.peer.pid,
        uid: session.peer.uid,
        opened_unix_ns: unix_ns(session.opened),
        objects,
        in_transaction: session.in_transaction(),
        waiting: false,
    }
}
