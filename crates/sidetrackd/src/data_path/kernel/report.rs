//! Conversion of the engine's state, flows and events to messages of the API.

use std::time::{Duration, SystemTime};

use sidetrack_api::v1;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_engine::{Engine, Error, FlowEntry};

use crate::event::unix_ns;

/// Sets the fields of a state message that come from the kernel side. Errors: the engine's.
pub(super) fn state(engine: &Engine, state: &mut v1::State) -> Result<(), Error> {
    let counters = engine.counters()?;
    state.counters = counters
        .iter()
        .map(|(name, value)| v1::Counter {
            name: name.to_owned(),
            value,
        })
        .collect();
    state.tables = engine
        .map_usage()?
        .into_iter()
        .map(|usage| v1::Table {
            name: usage.name.to_owned(),
            used: usage.used,
            capacity: usage.capacity,
        })
        .collect();
    let scope = engine.cgroups().into_iter().map(|(path, _)| path);
    let homes = engine.homes().map(ToOwned::to_owned);
    let cgroups: std::collections::BTreeSet<_> = scope.chain(homes).collect();
    let cgroups = cgroups.iter().map(|path| path.display().to_string());
    state.cgroups = cgroups.collect();
    state.policy_bytes = engine.policy_bytes()? as u64;
    Ok(())
}

/// Converts a flow. The committer adds the filter's name.
pub(super) fn flow(engine: &Engine, entry: &FlowEntry) -> v1::Flow {
    let flow = &entry.flow;
    let name = |number: &u16| {
        let number = u32::from(*number);
        let name = engine.service_name(number).map(ToOwned::to_owned);
        name.unwrap_or_else(|| format!("#{number} (removed)"))
    };
    let chain = &flow.chain[..usize::from(flow.chain_length).min(flow.chain.len())];
    let address = sidetrack_abi::address::socket_address;
    v1::Flow {
        id: flow.id,
        connected_unix_ns: unix_ns(wall_clock(flow.connected_at)),
        remote: Some(sidetrack_api::endpoint(address(
            flow.remote_addr,
            flow.remote_port,
        ))),
        local: Some(sidetrack_api::endpoint(address(
            flow.local_addr,
            flow.local_port,
        ))),
        protocol: flow.protocol.into(),
        pid: flow.pid,
        uid: flow.uid,
        comm: String::from_utf8_lossy(sidetrack_abi::address::text(&flow.comm)).into_owned(),
        app: entry.app.clone(),
        cgroup_id: flow.cgroup_id,
        chain: chain.iter().map(name).collect(),
        filter_id: flow.filter_id,
        filter: String::new(),
        closed: entry.closed,
    }
}

/// Converts an event. The committer adds the filter's name and key.
pub(super) fn event(engine: &Engine, event: &Event) -> v1::Event {
    let service = engine.service_name(event.service);
    v1::Event {
        time_unix_ns: unix_ns(wall_clock(event.time)),
        kind: kind(event.kind).into(),
        message: message(event, service),
        layer: event.layer.map_or(0, |layer| layer.index() as i32 + 1),
        filter_id: event.filter_id,
        service: service.unwrap_or_default().to_owned(),
        pid: event.pid,
        uid: event.uid,
        comm: event.comm.clone(),
        local: Some(sidetrack_api::endpoint(event.local)),
        remote: Some(sidetrack_api::endpoint(event.destination)),
        protocol: event.protocol.into(),
        generation: event.generation.into(),
        ..v1::Event::default()
    }
}

fn message(event: &Event, service: Option<&str>) -> String {
    let service = match service {
        Some(service) => format!(" (service {service})"),
        None => String::new(),
    };
    format!(
        "connection between {} [{}] and {}{service}: {}",
        event.comm, event.pid, event.destination, event.kind
    )
}

fn kind(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::AbsentBlocked => v1::EventKind::AbsentBlocked,
        EventKind::AbsentPermitted => v1::EventKind::AbsentPermitted,
        EventKind::ChainTooLong => v1::EventKind::ChainTooLong,
        EventKind::RecordsMissing => v1::EventKind::RecordsMissing,
        EventKind::RecordsStale => v1::EventKind::RecordsStale,
        EventKind::FlowsFull | EventKind::SearchCut => v1::EventKind::MapFull,
        EventKind::SelfConnect => v1::EventKind::SelfConnect,
        EventKind::Blocked | EventKind::Vetoed => v1::EventKind::ClassifyBlock,
        EventKind::Inspected => v1::EventKind::ClassifyInspect,
        _ => v1::EventKind::Unspecified,
    }
}

/// Converts a time of CLOCK_MONOTONIC, in nanoseconds, to wall-clock time.
fn wall_clock(monotonic_ns: u64) -> SystemTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32);
    let ago = now.saturating_sub(Duration::from_nanos(monotonic_ns));
    SystemTime::now() - ago
}
