//! An unmodified HAProxy behind Sidetrack, and behind nftables.

use super::all;
use crate::chart::BarGroup;
use crate::comparison::{Comparison, ContestGoal, CostOf};
use crate::contest::Readings;
use crate::contest_plan::ContestPlan;
use crate::relay::contestant::Contestant::{Direct, HaproxyBehind, HaproxySplice};
use crate::relay::workload::Workload::{Closing, Keeping};

pub(super) fn plan(quick: bool) -> ContestPlan {
    let milliseconds = if quick { 500 } else { 1_000 };
    let compare = |name: &str, workload, measure, unit, goal| Comparison {
        name: format!("HAProxy behind Sidetrack compared with HAProxy behind nftables, {name}"),
        unit,
        subject: HaproxyBehind,
        workload,
        measure,
        peers: vec![HaproxySplice],
        cost_of: CostOf::Path,
        limit: Some(Direct),
        goal,
    };
    ContestPlan {
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
                ContestGoal::AtLeast(1.1),
            ),
            compare(
                "requests a second, closing",
                Closing(32),
                "rate",
                "1/s",
                ContestGoal::AtLeast(1.15),
            ),
            compare(
                "CPU time of the whole machine, closing",
                Closing(32),
                "machine",
                "ns",
                ContestGoal::LessReported,
            ),
        ],
        groups,
    }
}

fn groups(readings: &Readings) -> Vec<BarGroup> {
    vec![
        BarGroup::of(
            readings,
            "Requests per second in kept connections, 32 clients",
            Keeping(32),
            "rate",
            1.0,
        ),
        BarGroup::of(
            readings,
            "Requests per second, a connection for each, 32 clients",
            Closing(32),
            "rate",
            1.0,
        ),
    ]
}
