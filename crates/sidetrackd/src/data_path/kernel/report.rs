//! The engine's state, flows and events with names and times, in place of the kernel's numbers.

use std::time::{Duration, SystemTime};

use sidetrack_engine::event::Event;
use sidetrack_engine::{Engine, Error, FlowEntry};

use crate::data_path::{ConnectionEvent, Flow, ServiceStatus, Usage};

/// Returns how full the kernel side is. Errors: the engine's.
pub(super) fn usage(engine: &Engine) -> Result<Usage, Error> {
    let scope = engine.cgroups().into_iter().map(|(path, _)| path);
    let homes = engine.homes().map(ToOwned::to_owned);
    Ok(Usage {
        counters: engine.counters()?.iter().collect(),
        maps: engine.map_usage()?,
        cgroups: scope.chain(homes).collect(),
        policy_bytes: engine.policy_bytes()?,
    })
}

/// Returns all services, with the numbers of their listeners. Errors: the engine's.
pub(super) fn services(engine: &Engine) -> Result<Vec<ServiceStatus>, Error> {
    engine
        .services()
        .map(|(number, spec)| {
            Ok(ServiceStatus {
                number: number as u16,
                key: spec.key,
                listeners: engine.listeners_of(number)?,
            })
        })
        .collect()
}

pub(super) fn flow(engine: &Engine, entry: &FlowEntry) -> Flow {
    let flow = &entry.flow;
    let name = |number: &u16| {
        let number = u32::from(*number);
        let name = engine.service_name(number).map(ToOwned::to_owned);
        name.unwrap_or_else(|| format!("#{number} (removed)"))
    };
    let chain = &flow.chain[..usize::from(flow.chain_length).min(flow.chain.len())];
    let address = sidetrack_abi::address::socket_address;
    Flow {
        id: flow.id,
        connected: wall_clock(flow.connected_at),
        remote: address(flow.remote_addr, flow.remote_port),
        local: address(flow.local_addr, flow.local_port),
        protocol: flow.protocol,
        pid: flow.pid,
        uid: flow.uid,
        comm: String::from_utf8_lossy(sidetrack_abi::address::text(&flow.comm)).into_owned(),
        app: entry.app.clone(),
        cgroup_id: flow.cgroup_id,
        chain: chain.iter().map(name).collect(),
        filter_id: flow.filter_id,
        closed: entry.closed,
        held: entry.held,
    }
}

pub(super) fn event(engine: &Engine, event: Event) -> ConnectionEvent {
    ConnectionEvent {
        service: engine.service_name(event.service).map(ToOwned::to_owned),
        time: wall_clock(event.time),
        event,
    }
}

/// Converts a time of CLOCK_MONOTONIC, in nanoseconds, to wall-clock time.
fn wall_clock(monotonic_ns: u64) -> SystemTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32);
    let ago = now.saturating_sub(Duration::from_nanos(monotonic_ns));
    SystemTime::now() - ago
}
