//! The latency of a connection with one request, at a fixed rate. It is measured from the intended
//! start, so that the connections that should have started while a proxy stalled count against that
//! proxy.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Nginx, Sidetrack, TwoHops,
};
use crate::relay::workload::Workload::Rated;

const CONTESTANTS: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const PEERS: [Contestant; 3] = [HaproxySplice, Haproxy, Nginx];
/// Connections per second: about half of what the slower contestants can do.
const RATE: u32 = 4_000;

pub(super) fn plan(quick: bool) -> ContestPlan {
    let milliseconds = if quick { 800 } else { 4_000 };
    let compare = |name: &str, measure, goal| Comparison {
        name: format!("latency at {RATE} connections a second, {name}"),
        unit: "ns",
        subject: Sidetrack,
        workload: Rated(RATE),
        measure,
        peers: PEERS.to_vec(),
        cost_of: CostOf::Path,
        limit: Some(TwoHops),
        goal,
    };
    ContestPlan {
        name: "latency",
        title: "Latency of a connection with one request, at a fixed rate",
        entries: all(&CONTESTANTS, &[Rated(RATE)], milliseconds),
        comparisons: vec![
            compare("p50", "p50", ContestGoal::LessReported),
            compare("p99", "p99", ContestGoal::AtMost(1.0)),
            compare("p99.9", "p999", ContestGoal::LessReported),
        ],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(readings, "Median latency, µs", Rated(RATE), "p50", 1e-3),
        BarGroup::of(
            readings,
            "99th percentile of the latency, µs",
            Rated(RATE),
            "p99",
            1e-3,
        ),
    ]
}
