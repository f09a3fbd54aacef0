//! UDP: the latency of request and response, and datagrams per second.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{self, Direct, NftMinimal, Nginx, Sidetrack, Socat};
use crate::relay::workload::Workload::{self, Ask, AskFresh, Flood};

const CONTESTANTS: [Contestant; 5] = [Direct, Sidetrack, NftMinimal, Nginx, Socat];
const WORKLOADS: [Workload; 4] = [Ask, AskFresh, Flood(64), Flood(1400)];

pub(super) fn plan(quick: bool) -> ContestPlan {
    let milliseconds = if quick { 300 } else { 500 };
    ContestPlan {
        name: "datagram",
        title: "Datagrams",
        entries: all(&CONTESTANTS, &WORKLOADS, milliseconds),
        comparisons: comparisons(),
        groups,
    }
}

fn comparisons() -> Vec<Comparison> {
    let (relay, both) = (&[NftMinimal][..], &[Nginx, Socat][..]);
    let latency = |name, workload, peers, goal| compare(name, workload, "p50", "ns", peers, goal);
    let rate = |name, size| {
        compare(
            name,
            Flood(size),
            "rate",
            "1/s",
            both,
            ContestGoal::AtLeast(1.5),
        )
    };
    let cpu = |name, size| {
        compare(
            name,
            Flood(size),
            "cpu",
            "ns",
            both,
            ContestGoal::LessReported,
        )
    };
    vec![
        latency(
            "question and answer in one flow, compared with nft redirect to a minimal relay",
            Ask,
            relay,
            ContestGoal::AtMost(0.9),
        ),
        latency(
            "question and answer in one flow",
            Ask,
            both,
            ContestGoal::LessReported,
        ),
        latency(
            "question and answer, a flow for each, compared with nft redirect to a minimal relay",
            AskFresh,
            relay,
            ContestGoal::AtMost(0.9),
        ),
        latency(
            "question and answer, a flow for each",
            AskFresh,
            both,
            ContestGoal::LessReported,
        ),
        rate("datagrams a second, 64 bytes", 64),
        rate("datagrams a second, 1,400 bytes", 1400),
        cpu("CPU time of the proxy for a datagram, 64 bytes", 64),
        cpu("CPU time of the proxy for a datagram, 1,400 bytes", 1400),
    ]
}

fn compare(
    name: &str,
    workload: Workload,
    measure: &'static str,
    unit: &'static str,
    peers: &[Contestant],
    goal: ContestGoal,
) -> Comparison {
    Comparison {
        name: name.to_owned(),
        unit,
        subject: Sidetrack,
        workload,
        measure,
        peers: peers.to_vec(),
        cost_of: CostOf::Path,
        limit: Some(Direct),
        goal,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(
            readings,
            "Latency of request and response in one flow, µs",
            Ask,
            "p50",
            1e-3,
        ),
        BarGroup::of(
            readings,
            "Latency of request and response, a flow for each, µs",
            AskFresh,
            "p50",
            1e-3,
        ),
        BarGroup::of(
            readings,
            "Datagrams per second, 64 bytes",
            Flood(64),
            "rate",
            1.0,
        ),
        BarGroup::of(
            readings,
            "Datagrams per second, 1,400 bytes",
            Flood(1400),
            "rate",
            1.0,
        ),
    ]
}
