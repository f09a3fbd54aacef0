//! UDP: latency of question and answer, and datagrams a second.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{self, Direct, NftMinimal, Nginx, Sidetrack, Socat};
use crate::relay::workload::Workload::{self, Ask, AskFresh, Flood};

const CONTESTANTS: [Contestant; 5] = [Direct, Sidetrack, NftMinimal, Nginx, Socat];
const WORKLOADS: [Workload; 4] = [Ask, AskFresh, Flood(64), Flood(1400)];

pub(super) fn plan(quick: bool) -> Plan {
    let milliseconds = if quick { 400 } else { 700 };
    let compare = |name: &str, workload, measure, unit, peers: &[Contestant], goal| Comparison {
        name: name.to_owned(),
        unit,
        subject: Sidetrack,
        workload,
        measure,
        peers: peers.to_vec(),
        limit: Some(Direct),
        goal,
    };
    let (relay, both) = (&[NftMinimal][..], &[Nginx, Socat][..]);
    Plan {
        name: "datagram",
        title: "Datagrams",
        entries: all(&CONTESTANTS, &WORKLOADS, milliseconds),
        comparisons: vec![
            compare(
                "question and answer in one flow, beside nft redirect to a minimal relay",
                Ask,
                "p50",
                "ns",
                relay,
                Goal::AtMost(0.9),
            ),
            compare(
                "question and answer in one flow",
                Ask,
                "p50",
                "ns",
                both,
                Goal::LessReported,
            ),
            compare(
                "question and answer, a flow for each, beside nft redirect to a minimal relay",
                AskFresh,
                "p50",
                "ns",
                relay,
                Goal::AtMost(0.9),
            ),
            compare(
                "question and answer, a flow for each",
                AskFresh,
                "p50",
                "ns",
                both,
                Goal::LessReported,
            ),
            compare(
                "datagrams a second, 64 bytes",
                Flood(64),
                "rate",
                "1/s",
                both,
                Goal::AtLeast(1.5),
            ),
            compare(
                "datagrams a second, 1,400 bytes",
                Flood(1400),
                "rate",
                "1/s",
                both,
                Goal::AtLeast(1.5),
            ),
            compare(
                "CPU time of the proxy for a datagram, 64 bytes",
                Flood(64),
                "cpu",
                "ns",
                both,
                Goal::LessReported,
            ),
            compare(
                "CPU time of the proxy for a datagram, 1,400 bytes",
                Flood(1400),
                "cpu",
                "ns",
                both,
                Goal::LessReported,
            ),
        ],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<Group> {
    vec![
        Group::of(
            readings,
            "Question and answer in one flow, µs",
            Ask,
            "p50",
            1e-3,
        ),
        Group::of(
            readings,
            "Question and answer, a flow for each, µs",
            AskFresh,
            "p50",
            1e-3,
        ),
        Group::of(
            readings,
            "Datagrams a second, 64 bytes",
            Flood(64),
            "rate",
            1.0,
        ),
        Group::of(
            readings,
            "Datagrams a second, 1,400 bytes",
            Flood(1400),
            "rate",
            1.0,
        ),
    ]
}
