//! The run time of each of Sidetrack's eBPF programs, as the kernel measures it.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::query::ProgInfoIter;
use serde::{Deserialize, Serialize};

use super::{round, setup};
use crate::connect::case::ConnectCase;
use crate::sys;

/// The first part of the names of all Sidetrack's programs.
const PREFIX: &str = "sidetrack_";
/// The kernel keeps 15 bytes of a name. Each truncated name, without the prefix, and the whole one.
/// The IPv6 variant of a program has the same truncated name, but does not run here, so the names
/// remain unique.
const TRUNCATED: [(&str, &str); 7] = [
    ("conne", "connect4"),
    ("getpe", "getpeername4"),
    ("clien", "client_release"),
    ("socko", "sockops"),
    ("getso", "getsockopt"),
    ("setso", "setsockopt"),
    ("servi", "service_release"),
];

/// The run time of one program in one case.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ProgramTime {
    /// The name without the prefix.
    pub(crate) name: String,
    /// The case.
    pub(crate) case: ConnectCase,
    /// The number of runs for one connection.
    pub(crate) runs_per_connection: f64,
    /// The mean duration of a run in nanoseconds.
    pub(crate) ns_per_run: f64,
    /// The product of both, in nanoseconds.
    pub(crate) ns_per_connection: f64,
}

/// Makes this number of connections while the kernel times the programs. Timing itself takes time,
/// so no round that is compared with others runs with it.
///
/// Errors: another engine was loaded at the same time.
pub(crate) fn take(case: ConnectCase, connections: u32) -> Result<Vec<ProgramTime>> {
    let others = program_ids();
    let setup = setup::open(case)?;
    let own: HashSet<u32> = program_ids().difference(&others).copied().collect();
    let statistics = sys::enable_program_statistics()
        .context("enable the run time statistics of eBPF programs")?;
    round::run(&*setup, 0..connections)?;
    drop(statistics);
    let programs: Vec<ProgramTime> = ProgInfoIter::default()
        .filter(|program| own.contains(&program.id) && program.run_cnt > 0)
        .filter_map(|program| {
            let name = program.name.to_string_lossy();
            Some(ProgramTime {
                name: whole_name(name.strip_prefix(PREFIX)?).to_owned(),
                case,
                runs_per_connection: program.run_cnt as f64 / f64::from(connections),
                ns_per_run: program.run_time_ns as f64 / program.run_cnt as f64,
                ns_per_connection: program.run_time_ns as f64 / f64::from(connections),
            })
        })
        .collect();
    setup.check(connections.into())?;
    // One engine classifies each connection once. Otherwise the programs of another engine were
    // counted as well.
    let classifying: Vec<_> = programs
        .iter()
        .filter(|program| program.name == "connect4")
        .collect();
    ensure!(
        matches!(classifying[..], [program] if program.runs_per_connection == 1.0),
        "another engine was loaded at the same time, and its programs cannot be distinguished from those of \
         this one"
    );
    Ok(programs)
}

fn whole_name(name: &str) -> &str {
    let entry = TRUNCATED.iter().find(|(truncated, _)| *truncated == name);
    entry.map_or(name, |(_, whole)| whole)
}

fn program_ids() -> HashSet<u32> {
    ProgInfoIter::default().map(|program| program.id).collect()
}
