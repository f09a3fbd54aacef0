//! Memory of idle connections: the proxy's own, and the kernel's.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Nginx, Sidetrack, TwoHops,
};
use crate::relay::workload::Workload::Idle;

const CONTESTANTS: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const PEERS: [Contestant; 3] = [HaproxySplice, Haproxy, Nginx];

pub(super) fn plan(_quick: bool) -> Plan {
    let mut comparisons = Vec::new();
    for connections in [1_000, 9_000] {
        let compare = |name: String, measure, goal| Comparison {
            name,
            unit: "bytes",
            subject: Sidetrack,
            workload: Idle(connections),
            measure,
            peers: PEERS.to_vec(),
            further: false,
            limit: Some(TwoHops),
            goal,
        };
        let name = format!("memory of the proxy for one of {connections} idle connections");
        comparisons.push(compare(name.clone(), "user", Goal::Below(2048.0)));
        comparisons.push(compare(
            name + ", beside the best",
            "user",
            Goal::AtMost(1.0),
        ));
        let name = format!("memory of the kernel for one of {connections} idle connections");
        comparisons.push(compare(name, "kernel", Goal::LessReported));
    }
    Plan {
        name: "idle",
        title: "Memory of an idle connection",
        entries: all(&CONTESTANTS, &[Idle(1_000), Idle(9_000)], 0),
        comparisons,
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    vec![
        Group::of(
            readings,
            "The proxy's memory for one of 9,000, bytes",
            Idle(9_000),
            "user",
            1.0,
        ),
        Group::of(
            readings,
            "The kernel's memory for one of 9,000, bytes",
            Idle(9_000),
            "kernel",
            1.0,
        ),
    ]
}
