//! How long each of Sidetrack's eBPF programs takes, as the kernel measures it.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::query::ProgInfoIter;
use serde::{Deserialize, Serialize};

use super::{round, way};
use crate::connect::case::Case;
use crate::sys;

/// What all of our programs' names begin with.
const PREFIX: &str = "sidetrack_";
/// The kernel keeps 15 bytes of a name. These are the names cut short, without the prefix; the IPv6
/// twin of one has no runs here, so nothing is mixed up.
const CUT_SHORT: [(&str, &str); 5] = [
    ("conne", "connect4"),
    ("socko", "sockops"),
    ("getop", "getopt"),
    ("setop", "setopt"),
    ("relea", "release"),
];

/// A program's part.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Without the prefix.
    pub(crate) name: String,
    /// The case.
    pub(crate) case: Case,
    /// How often it ran for one connection.
    pub(crate) runs_per_connection: f64,
    /// How long one run took on average.
    pub(crate) ns_per_run: f64,
    /// The product.
    pub(crate) ns_per_connection: f64,
}

/// Makes these connections with the kernel's clock on the programs. The clock itself takes time, so
/// no round that is compared runs under it.
pub(crate) fn take(case: Case, connections: u32) -> Result<Vec<Program>> {
    let others = program_ids();
    let way = way::open(case)?;
    let own: HashSet<u32> = program_ids().difference(&others).copied().collect();
    let statistics = sys::enable_program_statistics().context("let the kernel time programs")?;
    round::run(&*way, 0..connections)?;
    drop(statistics);
    let programs: Vec<Program> = ProgInfoIter::default()
        .filter(|program| own.contains(&program.id) && program.run_cnt > 0)
        .filter_map(|program| {
            let name = program.name.to_string_lossy();
            Some(Program {
                name: whole_name(name.strip_prefix(PREFIX)?).to_owned(),
                case,
                runs_per_connection: program.run_cnt as f64 / f64::from(connections),
                ns_per_run: program.run_time_ns as f64 / program.run_cnt as f64,
                ns_per_connection: program.run_time_ns as f64 / f64::from(connections),
            })
        })
        .collect();
    way.check(connections.into())?;
    // One engine, judging each connection once: else another one's programs were counted too.
    let judged: Vec<_> = programs
        .iter()
        .filter(|one| one.name == "connect4")
        .collect();
    ensure!(
        matches!(judged[..], [one] if one.runs_per_connection == 1.0),
        "another engine was loaded together with this one: its programs cannot be told apart"
    );
    Ok(programs)
}

fn whole_name(kept: &str) -> &str {
    let known = CUT_SHORT.iter().find(|(cut, _)| *cut == kept);
    known.map_or(kept, |(_, whole)| whole)
}

fn program_ids() -> HashSet<u32> {
    ProgInfoIter::default().map(|program| program.id).collect()
}
