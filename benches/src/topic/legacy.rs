//! An unmodified HAProxy behind Sidetrack, and behind nftables.

use super::{Plan, all};
use crate::comparison::{Comparison, Goal};
use crate::contest::Readings;
use crate::picture::Group;
use crate::relay::contestant::Contestant::{Direct, HaproxyBehind, HaproxySplice};
use crate::relay::workload::Workload::{Closing, Keeping};

pub(super) fn plan(quick: bool) -> Plan {
    let milliseconds = if quick { 500 } else { 1_000 };
    let compare = |name: &str, workload, measure, unit, goal| Comparison {
        name: format!("HAProxy behind Sidetrack beside behind nftables, {name}"),
        unit,
        subject: HaproxyBehind,
        workload,
        measure,
        peers: vec![HaproxySplice],
        further: false,
        limit: Some(Direct),
        goal,
    };
    Plan {
        name: "legacy",
        title: "An unmodified HAProxy behind Sidetrack, and behind nftables",
        entries: all(
            &[Direct, HaproxyBehind, HaproxySplice],
            &[Keeping(32), Closing(32)],
            milliseconds,
        ),
        comparisons: vec![
            compare(
                "requests a second, kept connections",
                Keeping(32),
                "rate",
                "1/s",
                Goal::AtLeast(1.1),
            ),
            compare(
                "requests a second, closing",
                Closing(32),
                "rate",
                "1/s",
                Goal::AtLeast(1.15),
            ),
            compare(
                "CPU time of the whole machine, closing",
                Closing(32),
                "machine",
                "ns",
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
            "Requests a second, kept connections, 32 clients",
            Keeping(32),
            "rate",
            1.0,
        ),
        Group::of(
            readings,
            "Requests a second, closing, 32 clients",
            Closing(32),
            "rate",
            1.0,
        ),
    ]
}
