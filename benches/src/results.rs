//! docs/bench/results.json.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::case::Case;
use crate::figure::{FIGURES, Outcome, tenth, thousandth};
use crate::machine::Machine;
use crate::plan::Measured;
use crate::profile::Program;
use crate::round::Round;
use crate::statistics::{deviation, median};

/// Below the workspace's root, where `make bench` runs.
const FOLDER: &str = "docs/bench";

/// The whole run.
#[derive(Serialize)]
pub(crate) struct Results {
    /// On what.
    pub(crate) machine: Machine,
    /// The comparisons.
    pub(crate) figures: Vec<Outcome>,
    /// Each case for itself.
    pub(crate) cases: Vec<Summary>,
    /// Sidetrack's eBPF programs.
    pub(crate) programs: Vec<Program>,
}

/// A case's times in nanoseconds: of each round the median of single connections, where nothing else
/// is said; of these the median.
#[derive(Serialize)]
pub(crate) struct Summary {
    /// Which.
    pub(crate) case: Case,
    /// socket and connect.
    pub(crate) connect: f64,
    /// socket, connect, accept, query.
    pub(crate) asked: Spread,
    /// The mean of all connections.
    pub(crate) asked_mean: f64,
    /// 99 of 100 single connections took less.
    pub(crate) asked_p99: f64,
    /// The same to the close of both ends.
    pub(crate) whole: f64,
    /// The process's time on the CPU, from socket to close.
    pub(crate) cpu: f64,
    /// The query alone.
    pub(crate) query: f64,
}

/// How the rounds lie.
#[derive(Serialize)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The fastest.
    pub(crate) min: f64,
    /// The slowest.
    pub(crate) max: f64,
    /// The median absolute deviation, as a share of the median.
    pub(crate) noise: f64,
}

impl Results {
    /// Works everything out.
    pub(crate) fn of(machine: Machine, measured: &Measured) -> Self {
        Self {
            machine,
            figures: FIGURES
                .iter()
                .map(|figure| figure.outcome(measured))
                .collect(),
            cases: Case::ALL
                .into_iter()
                .filter_map(|case| Some(Summary::of(case, measured.rounds.get(&case)?)))
                .collect(),
            programs: measured.programs.iter().map(rounded).collect(),
        }
    }
}

impl Summary {
    fn of(case: Case, rounds: &[Round]) -> Self {
        let values = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        let middle = |of| tenth(median(&values(of)));
        Self {
            case,
            connect: middle(|round| round.connect.p50),
            asked: Spread::of(&values(|round| round.asked.p50)),
            asked_mean: middle(|round| round.asked.mean),
            asked_p99: middle(|round| round.asked.p99),
            whole: middle(|round| round.whole.p50),
            cpu: middle(|round| round.cpu_ns),
            query: middle(|round| round.query.p50),
        }
    }
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self {
            median: tenth(median(values)),
            min: tenth(values.iter().copied().fold(f64::INFINITY, f64::min)),
            max: tenth(values.iter().copied().fold(0.0, f64::max)),
            noise: thousandth(deviation(values) / median(values)),
        }
    }
}

/// Writes one of the run's files.
pub(crate) fn save(name: &str, text: &str) -> Result<()> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).with_context(|| format!("make {FOLDER}"))?;
    fs::write(folder.join(name), text).with_context(|| format!("write {FOLDER}/{name}"))
}

fn rounded(program: &Program) -> Program {
    Program {
        runs_per_connection: thousandth(program.runs_per_connection),
        ns_per_run: tenth(program.ns_per_run),
        ns_per_connection: tenth(program.ns_per_connection),
        ..program.clone()
    }
}
