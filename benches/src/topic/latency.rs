//! Latency of a connection with one request, at a fixed rate, from the intended moment: a proxy that
//! stalls is not spared those that should have come meanwhile.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{
    self, Direct, Haproxy, HaproxySplice, Nginx, Sidetrack, TwoHops,
};
use crate::relay::workload::Workload::Rated;

const CONTESTANTS: [Contestant; 6] = [Direct, TwoHops, Sidetrack, HaproxySplice, Haproxy, Nginx];
const PEERS: [Contestant; 3] = [HaproxySplice, Haproxy, Nginx];
/// About half of what the slower ones of these can do.
const RATE: u32 = 4_000;

pub(super) fn plan(quick: bool) -> Plan {
    let milliseconds = if quick { 800 } else { 4_000 };
    let compare = |name: &str, measure, goal| Comparison {
        name: format!("latency at {RATE} connections a second, {name}"),
        unit: "ns",
        subject: Sidetrack,
        workload: Rated(RATE),
        measure,
        peers: PEERS.to_vec(),
        further: false,
        limit: Some(TwoHops),
        goal,
    };
    Plan {
        name: "latency",
        title: "Latency of a connection with one request, at a fixed rate",
        entries: all(&CONTESTANTS, &[Rated(RATE)], milliseconds),
        comparisons: vec![
            compare("p50", "p50", Goal::LessReported),
            compare("p99", "p99", Goal::AtMost(1.0)),
            compare("p99.9", "p999", Goal::LessReported),
        ],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    vec![
        Group::of(
            readings,
            "Half of the connections are answered within, µs",
            Rated(RATE),
            "p50",
            1e-3,
        ),
        Group::of(
            readings,
            "99 of 100 are answered within, µs",
            Rated(RATE),
            "p99",
            1e-3,
        ),
    ]
}
