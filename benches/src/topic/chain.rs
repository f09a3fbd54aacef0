//! Chains of services: what each further hop costs.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{self, Chain, Direct};
use crate::relay::workload::Workload::Closing;

const LENGTHS: [u32; 5] = [1, 2, 4, 6, 8];
const CLIENTS: u32 = 4;

pub(super) fn plan(quick: bool) -> Plan {
    let milliseconds = if quick { 400 } else { 700 };
    let mut contestants: Vec<Contestant> = vec![Direct];
    contestants.extend(LENGTHS.map(Chain));
    let compare = |(subject, over), factor: f64| Comparison {
        name: format!(
            "CPU time of the proxies for a connection, chain of {subject}, beside {factor} times a chain of {over}"
        ),
        unit: "ns",
        subject: Chain(subject),
        workload: Closing(CLIENTS),
        measure: "cpu",
        peers: vec![Chain(over)],
        limit: None,
        goal: Goal::AtMost(factor * 1.1),
    };
    Plan {
        name: "chain",
        title: "Chains of services",
        entries: all(&contestants, &[Closing(CLIENTS)], milliseconds),
        comparisons: vec![
            compare((2, 1), 2.0),
            compare((4, 2), 2.0),
            compare((8, 4), 2.0),
            compare((8, 1), 8.0),
        ],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    let workload = Closing(CLIENTS);
    vec![
        Group::of(
            readings,
            "CPU time of all proxies for a connection, µs",
            workload,
            "cpu",
            1e-3,
        ),
        Group::of(
            readings,
            "CPU time of the whole machine for a connection, µs",
            workload,
            "machine",
            1e-3,
        ),
        Group::of(
            readings,
            "Connections a second, 4 clients",
            workload,
            "rate",
            1.0,
        ),
    ]
}
