//! The memory of idle connections, in the proxy and in the kernel.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Nginx, Sidetrack, TwoHops,
};
use crate::relay::workload::Workload::Idle;

const CONTESTANTS: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const PEERS: [Contestant; 3] = [HaproxySplice, Haproxy, Nginx];

pub(super) fn plan(_quick: bool) -> ContestPlan {
    let mut comparisons = Vec::new();
    for connections in [1_000, 9_000] {
        let compare = |name: String, measure, goal| Comparison {
            name,
            unit: "bytes",
            subject: Sidetrack,
            workload: Idle(connections),
            measure,
            peers: PEERS.to_vec(),
            cost_of: CostOf::Path,
            limit: Some(TwoHops),
            goal,
        };
        let name = format!("memory of the proxy for one of {connections} idle connections");
        comparisons.push(compare(name.clone(), "user", ContestGoal::Below(2048.0)));
        comparisons.push(compare(
            name + ", compared with the best",
            "user",
            ContestGoal::AtMost(1.0),
        ));
        let name = format!("memory of the kernel for one of {connections} idle connections");
        comparisons.push(compare(name, "kernel", ContestGoal::LessReported));
    }
    ContestPlan {
        name: "idle",
        title: "Memory of an idle connection",
        entries: all(&CONTESTANTS, &[Idle(1_000), Idle(9_000)], 0),
        comparisons,
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(
            readings,
            "Memory of the proxy for one of 9,000 connections, bytes",
            Idle(9_000),
            "user",
            1.0,
        ),
        BarGroup::of(
            readings,
            "Memory of the kernel for one of 9,000 connections, bytes",
            Idle(9_000),
            "kernel",
            1.0,
        ),
    ]
}
