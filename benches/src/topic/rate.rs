//! Connections a second through redirector, proxy and origin, and the CPU time of each.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Mitmproxy, Nginx, Redsocks, Sidetrack, Socat, TwoHops,
};
use crate::relay::workload::Workload::{self, Closing, Keeping};

const FAST: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const SLOW: [Contestant; 3] = [Redsocks, Socat, Mitmproxy];
const PEERS: [Contestant; 6] = [HaproxySplice, Haproxy, Nginx, Redsocks, Socat, Mitmproxy];
const WORKLOADS: [Workload; 4] = [Closing(1), Closing(16), Closing(256), Keeping(16)];

pub(super) fn plan(quick: bool) -> Plan {
    let milliseconds = if quick { 300 } else { 500 };
    let mut entries = all(&FAST, &WORKLOADS, milliseconds);
    entries.extend(all(&SLOW, &[Closing(16)], milliseconds));
    let mut comparisons = Vec::new();
    for clients in [1, 16, 256] {
        let name = format!("connections a second, {clients} clients");
        comparisons.push(compare(
            name,
            "1/s",
            Closing(clients),
            "rate",
            Goal::AtLeast(1.3),
        ));
    }
    for (measure, what) in [("cpu", "the proxy"), ("machine", "the whole machine")] {
        let name = format!("CPU time of {what} for a connection, 16 clients");
        comparisons.push(compare(
            name,
            "ns",
            Closing(16),
            measure,
            Goal::LessReported,
        ));
    }
    let name = "requests a second in kept connections, 16 clients".to_owned();
    comparisons.push(compare(
        name,
        "1/s",
        Keeping(16),
        "rate",
        Goal::MoreReported,
    ));
    let name = "CPU time of the proxy for a request in a kept connection".to_owned();
    comparisons.push(compare(name, "ns", Keeping(16), "cpu", Goal::LessReported));
    Plan {
        name: "rate",
        title: "Connections through redirector, proxy and origin",
        entries,
        comparisons,
        groups,
    }
}

fn compare(
    name: String,
    unit: &'static str,
    workload: Workload,
    measure: &'static str,
    goal: Goal,
) -> Comparison {
    Comparison {
        name,
        unit,
        subject: Sidetrack,
        workload,
        measure,
        peers: PEERS.to_vec(),
        further: false,
        limit: Some(TwoHops),
        goal,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    vec![
        Group::of(
            readings,
            "Connections a second, 16 clients",
            Closing(16),
            "rate",
            1.0,
        ),
        Group::of(
            readings,
            "Connections a second, 256 clients",
            Closing(256),
            "rate",
            1.0,
        ),
        Group::of(
            readings,
            "The proxy's CPU time for a connection, µs, 16 clients",
            Closing(16),
            "cpu",
            1e-3,
        ),
    ]
}
