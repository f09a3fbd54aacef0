//! docs/bench/results.json.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::connect::case::Case;
use crate::connect::figure::{FIGURES, Outcome, tenth, thousandth};
use crate::connect::plan::Measured;
use crate::connect::profile::Program;
use crate::connect::round::Round;
use crate::machine::Machine;
use crate::statistics::{deviation, median};

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

impl Results {
    /// The figures, with their topic.
    pub(crate) fn figures(&self) -> Result<Vec<Value>> {
        let figures = self.figures.iter().map(|figure| {
            let mut value = serde_json::to_value(figure)?;
            value["topic"] = "connect".into();
            Ok(value)
        });
        figures.collect()
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

fn rounded(program: &Program) -> Program {
    Program {
        runs_per_connection: thousandth(program.runs_per_connection),
        ns_per_run: tenth(program.ns_per_run),
        ns_per_connection: tenth(program.ns_per_connection),
        ..program.clone()
    }
}
