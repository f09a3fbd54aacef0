//! Throughput, and CPU time for a GiB.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
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

pub(super) fn plan(quick: bool) -> Plan {
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
            further: false,
            limit: Some(TwoHops),
            goal,
        };
        let name = format!("throughput, {what}");
        comparisons.push(compare(name, "Gbit/s", "gbit", &PEERS, Goal::AtLeast(1.2)));
        let name = format!("throughput beside two direct hops, {what}");
        comparisons.push(compare(
            name,
            "Gbit/s",
            "gbit",
            &[TwoHops],
            Goal::AtLeast(0.8),
        ));
        let name = format!("CPU time of the proxy for a GiB, {what}");
        comparisons.push(compare(name, "ns", "cpu", &PEERS, Goal::AtMost(0.7)));
        let name = format!("CPU time of the whole machine for a GiB, {what}");
        comparisons.push(compare(name, "ns", "machine", &PEERS, Goal::LessReported));
    }
    Plan {
        name: "stream",
        title: "Throughput, and CPU time for a GiB",
        entries: all(&CONTESTANTS, &WORKLOADS.map(|one| one.0), milliseconds),
        comparisons,
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    vec![
        Group::of(readings, "Gbit/s, 1 stream down", Down(1), "gbit", 1.0),
        Group::of(readings, "Gbit/s, 32 streams down", Down(32), "gbit", 1.0),
        Group::of(
            readings,
            "The proxy's CPU time for a GiB, ms, 1 stream down",
            Down(1),
            "cpu",
            1e-6,
        ),
        Group::of(
            readings,
            "The proxy's CPU time for a GiB, ms, 32 streams down",
            Down(32),
            "cpu",
            1e-6,
        ),
    ]
}
