//! The throughput of streams, and the CPU time for a GiB.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Nginx, Sidetrack, TwoHops,
};
use crate::relay::workload::Workload::{self, Both, Down, Up};

const CONTESTANTS: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const PEERS: [Contestant; 3] = [HaproxySplice, Haproxy, Nginx];
const WORKLOADS: [(Workload, &str); 4] = [
    (Up(1), "1 stream up"),
    (Down(1), "1 stream down"),
    (Down(32), "32 streams down"),
    (Both(32), "32 streams both ways"),
];

pub(super) fn plan(quick: bool) -> ContestPlan {
    let milliseconds = if quick { 300 } else { 600 };
    let mut comparisons = Vec::new();
    for (workload, what) in WORKLOADS {
        let compare = |name, unit, measure, peers: &[Contestant], goal| Comparison {
            name,
            unit,
            subject: Sidetrack,
            workload,
            measure,
            peers: peers.to_vec(),
            cost_of: CostOf::Path,
            limit: Some(TwoHops),
            goal,
        };
        let name = format!("throughput, {what}");
        comparisons.push(compare(
            name,
            "Gbit/s",
            "gbit",
            &PEERS,
            ContestGoal::AtLeast(1.2),
        ));
        let name = format!("throughput compared with two direct hops, {what}");
        comparisons.push(compare(
            name,
            "Gbit/s",
            "gbit",
            &[TwoHops],
            ContestGoal::AtLeast(0.8),
        ));
        let name = format!("CPU time of the proxy for a GiB, {what}");
        comparisons.push(compare(name, "ns", "cpu", &PEERS, ContestGoal::AtMost(0.7)));
        let name = format!("CPU time of the whole machine for a GiB, {what}");
        comparisons.push(compare(
            name,
            "ns",
            "machine",
            &PEERS,
            ContestGoal::LessReported,
        ));
    }
    ContestPlan {
        name: "stream",
        title: "Throughput, and CPU time for a GiB",
        entries: all(&CONTESTANTS, &WORKLOADS.map(|one| one.0), milliseconds),
        comparisons,
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(readings, "Gbit/s, 1 stream down", Down(1), "gbit", 1.0),
        BarGroup::of(readings, "Gbit/s, 32 streams down", Down(32), "gbit", 1.0),
        BarGroup::of(
            readings,
            "CPU time of the proxy for a GiB, ms, 1 stream down",
            Down(1),
            "cpu",
            1e-6,
        ),
        BarGroup::of(
            readings,
            "CPU time of the proxy for a GiB, ms, 32 streams down",
            Down(32),
            "cpu",
            1e-6,
        ),
    ]
}
