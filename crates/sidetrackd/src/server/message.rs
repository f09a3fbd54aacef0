//! What the daemon reports, as messages of the API.

use std::time::{SystemTime, UNIX_EPOCH};

use sidetrack_abi::text::count;
use sidetrack_api::v1;
use sidetrack_engine::event::EventKind as ConnectionEventKind;

use crate::data_path::{ConnectionEvent, Flow, Usage};
use crate::event::{Event, EventKind, FilterName, SessionClient};
use crate::session::{Session, SessionEvent};

/// Sets the fields of a state message that come from the data path.
pub(super) fn set_usage(state: &mut v1::State, usage: Usage) {
    let counters = usage.counters.into_iter();
    state.counters = counters
        .map(|(name, value)| v1::Counter {
            name: name.to_owned(),
            value,
        })
        .collect();
    let maps = usage.maps.into_iter();
    state.tables = maps
        .map(|map| v1::Table {
            name: map.name.to_owned(),
            used: map.used,
            capacity: map.capacity,
        })
        .collect();
    let cgroups = usage.cgroups.iter();
    state.cgroups = cgroups.map(|path| path.display().to_string()).collect();
    state.policy_bytes = usage.policy_bytes as u64;
}

pub(super) fn session_state(session: &Session, objects: u32) -> v1::SessionState {
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

/// Converts a session that waits for its client.
pub(super) fn resumable_session(session_id: u64, uid: u32, objects: u32) -> v1::SessionState {
    v1::SessionState {
        session_id,
        uid,
        dynamic: true,
        objects,
        waiting: true,
        ..v1::SessionState::default()
    }
}

/// Converts a flow. `filter` is the name of its filter, if that is in force.
pub(super) fn flow(flow: Flow, filter: Option<String>) -> v1::Flow {
    v1::Flow {
        id: flow.id,
        connected_unix_ns: unix_ns(flow.connected),
        remote: Some(sidetrack_api::endpoint(flow.remote)),
        local: Some(sidetrack_api::endpoint(flow.local)),
        protocol: flow.protocol.into(),
        pid: flow.pid,
        uid: flow.uid,
        comm: flow.comm,
        app: flow.app,
        cgroup_id: flow.cgroup_id,
        chain: flow.chain,
        filter_id: flow.filter_id,
        filter: filter.unwrap_or_default(),
        closed: flow.closed,
        held: flow.held,
    }
}

pub(super) fn event(event: &Event) -> v1::Event {
    let rest = match &event.kind {
        EventKind::Connection { event, filter } => connection_event(event, filter.as_ref()),
        EventKind::SessionOpened(client)
        | EventKind::SessionEnded(client)
        | EventKind::TransactionAborted(client) => session_client(*client),
        EventKind::PolicyCommitted(generation) => v1::Event {
            generation: *generation,
            ..v1::Event::default()
        },
        EventKind::Lost(missed) => v1::Event {
            missed: *missed,
            ..v1::Event::default()
        },
        EventKind::Mended => v1::Event::default(),
    };
    v1::Event {
        sequence: event.sequence,
        time_unix_ns: unix_ns(event.time),
        kind: event_kind(&event.kind).into(),
        message: event.message.clone(),
        ..rest
    }
}

/// Returns the event that takes the place of those that a reader has missed. It has no number in
/// the sequence, since other readers have not missed them.
pub(super) fn missed_event(missed: u64) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::Missed.into(),
        time_unix_ns: unix_ns(SystemTime::now()),
        message: format!(
            "{} lost, because the client read too slowly",
            count(missed, "event")
        ),
        missed,
        ..v1::Event::default()
    }
}

pub(super) fn event_kind(kind: &EventKind) -> v1::EventKind {
    match kind {
        EventKind::Connection { event, .. } => connection_event_kind(event.event.kind),
        EventKind::SessionOpened(_) => v1::EventKind::SessionOpened,
        EventKind::SessionEnded(_) => v1::EventKind::SessionEnded,
        EventKind::TransactionAborted(_) => v1::EventKind::TransactionAborted,
        EventKind::PolicyCommitted(_) => v1::EventKind::PolicyCommitted,
        EventKind::Mended => v1::EventKind::Mended,
        EventKind::Lost(_) => v1::EventKind::Missed,
    }
}

pub(super) fn session_event(event: SessionEvent) -> v1::session_event::Event {
    use v1::session_event::Event as ApiEvent;
    match event {
        SessionEvent::TransactionAborted => ApiEvent::TransactionAborted(v1::TransactionAborted {}),
        SessionEvent::Stopping => ApiEvent::Stopping(v1::Stopping {}),
    }
}

/// Converts a time to nanoseconds since 1970-01-01 00:00 UTC. Earlier times become 0.
pub(super) fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

fn connection_event(reported: &ConnectionEvent, filter: Option<&FilterName>) -> v1::Event {
    let event = &reported.event;
    v1::Event {
        layer: event.layer.map_or(0, |layer| v1::Layer::from(layer).into()),
        filter_id: event.filter_id,
        filter: filter.map(|filter| filter.name.clone()).unwrap_or_default(),
        filter_key: filter
            .map(|filter| sidetrack_api::key_bytes(filter.key))
            .unwrap_or_default(),
        service: reported.service.clone().unwrap_or_default(),
        pid: event.pid,
        uid: event.uid,
        comm: event.comm.clone(),
        executable: event.executable.clone(),
        flow_id: event.flow_id,
        local: Some(sidetrack_api::endpoint(event.local)),
        remote: Some(sidetrack_api::endpoint(event.destination)),
        protocol: event.protocol.into(),
        generation: event.generation.into(),
        ..v1::Event::default()
    }
}

fn session_client(client: SessionClient) -> v1::Event {
    v1::Event {
        session_id: client.session,
        pid: client.pid,
        uid: client.uid,
        ..v1::Event::default()
    }
}

fn connection_event_kind(kind: ConnectionEventKind) -> v1::EventKind {
    use ConnectionEventKind as Kind;
    match kind {
        Kind::AbsentBlocked => v1::EventKind::AbsentBlocked,
        Kind::AbsentPermitted => v1::EventKind::AbsentPermitted,
        Kind::ChainTooLong => v1::EventKind::ChainTooLong,
        Kind::RecordsMissing => v1::EventKind::RecordsMissing,
        Kind::RecordsStale => v1::EventKind::RecordsStale,
        Kind::RecordsBound => v1::EventKind::RecordsBound,
        Kind::FlowsFull | Kind::SearchCut => v1::EventKind::MapFull,
        Kind::SelfConnect => v1::EventKind::SelfConnect,
        Kind::Blocked | Kind::Vetoed => v1::EventKind::ClassifyBlock,
        Kind::Inspected => v1::EventKind::ClassifyInspect,
        _ => v1::EventKind::Unspecified,
    }
}
