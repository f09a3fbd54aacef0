//! Connections per second through redirector, proxy and origin, and the CPU time of one.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Mitmproxy, Nginx, Redsocks, Sidetrack, Socat, TwoHops,
};
use crate::relay::workload::Workload::{self, Closing, Keeping};

const FAST: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const SLOW: [Contestant; 3] = [Redsocks, Socat, Mitmproxy];
const PEERS: [Contestant; 6] = [HaproxySplice, Haproxy, Nginx, Redsocks, Socat, Mitmproxy];
const WORKLOADS: [Workload; 4] = [Closing(1), Closing(16), Closing(256), Keeping(16)];

pub(super) fn plan(quick: bool) -> ContestPlan {
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
            ContestGoal::AtLeast(1.3),
        ));
    }
    for (measure, what) in [("cpu", "the proxy"), ("machine", "the whole machine")] {
        let name = format!("CPU time of {what} for a connection, 16 clients");
        comparisons.push(compare(
            name,
            "ns",
            Closing(16),
            measure,
            ContestGoal::LessReported,
        ));
    }
    let name = "requests a second in kept connections, 16 clients".to_owned();
    comparisons.push(compare(
        name,
        "1/s",
        Keeping(16),
        "rate",
        ContestGoal::MoreReported,
    ));
    let name = "CPU time of the proxy for a request in a kept connection".to_owned();
    comparisons.push(compare(
        name,
        "ns",
        Keeping(16),
        "cpu",
        ContestGoal::LessReported,
    ));
    ContestPlan {
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
    goal: ContestGoal,
) -> Comparison {
    Comparison {
        name,
        unit,
        subject: Sidetrack,
        workload,
        measure,
        peers: PEERS.to_vec(),
        cost_of: CostOf::Path,
        limit: Some(TwoHops),
        goal,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(
            readings,
            "Connections per second, 16 clients",
            Closing(16),
            "rate",
            1.0,
        ),
        BarGroup::of(
            readings,
            "Connections per second, 256 clients",
            Closing(256),
            "rate",
            1.0,
        ),
        BarGroup::of(
            readings,
            "CPU time of the proxy for a connection, µs, 16 clients",
            Closing(16),
            "cpu",
            1e-3,
        ),
    ]
}
