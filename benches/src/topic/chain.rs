//! Chains of services: the cost of each further hop.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{self, Chain, Direct};
use crate::relay::workload::Workload::Closing;

const LENGTHS: [u32; 5] = [1, 2, 4, 6, 8];
const CLIENTS: u32 = 4;

pub(super) fn plan(quick: bool) -> ContestPlan {
    let milliseconds = if quick { 400 } else { 700 };
    let mut contestants: Vec<Contestant> = vec![Direct];
    contestants.extend(LENGTHS.map(Chain));
    let compare = |name: &str, (subject, over), cost_of, goal| Comparison {
        name: format!("{name} in a chain of {subject}, compared with a chain of {over}"),
        unit: "ns",
        subject: Chain(subject),
        workload: Closing(CLIENTS),
        measure: "cpu",
        peers: vec![Chain(over)],
        cost_of,
        limit: None,
        goal,
    };
    let hop = |chains| {
        compare(
            "CPU time of a further hop",
            chains,
            CostOf::FurtherHop,
            ContestGoal::AtMost(1.1),
        )
    };
    let all_hops = |chains| {
        compare(
            "CPU time of all hops",
            chains,
            CostOf::Path,
            ContestGoal::LessReported,
        )
    };
    ContestPlan {
        name: "chain",
        title: "Chains of services",
        entries: all(&contestants, &[Closing(CLIENTS)], milliseconds),
        comparisons: vec![hop((4, 2)), hop((8, 2)), all_hops((2, 1)), all_hops((8, 1))],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    let workload = Closing(CLIENTS);
    vec![
        BarGroup::of(
            readings,
            "CPU time of all proxies for a connection, µs",
            workload,
            "cpu",
            1e-3,
        ),
        BarGroup::of(
            readings,
            "CPU time of the whole machine for a connection, µs",
            workload,
            "machine",
            1e-3,
        ),
        BarGroup::of(
            readings,
            "Connections per second, 4 clients",
            workload,
            "rate",
            1.0,
        ),
    ]
}
