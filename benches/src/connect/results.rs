//! What the topic contributes to docs/bench/results.json.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::connect::case::ConnectCase;
use crate::connect::figure::{FIGURES, FigureResult, tenth, thousandth};
use crate::connect::measured::Measured;
use crate::connect::profile::ProgramTime;
use crate::connect::round::ConnectRound;
use crate::machine::Machine;
use crate::statistics::{deviation, median};

/// The results of a run.
#[derive(Serialize)]
pub(crate) struct Results {
    /// The machine on which it ran.
    pub(crate) machine: Machine,
    /// The figures, which compare cases.
    pub(crate) figures: Vec<FigureResult>,
    /// The times of each case.
    pub(crate) cases: Vec<CaseSummary>,
    /// The run times of Sidetrack's eBPF programs.
    pub(crate) programs: Vec<ProgramTime>,
}

/// The times of a case in nanoseconds. Each is the median of the rounds; the value of a round is
/// the median of its single connections unless the field says otherwise.
#[derive(Serialize)]
pub(crate) struct CaseSummary {
    /// The case.
    pub(crate) case: ConnectCase,
    /// `socket` and `connect`.
    pub(crate) connect: f64,
    /// `socket`, `connect`, `accept` and the query.
    pub(crate) asked: Spread,
    /// The mean of the same time over all connections.
    pub(crate) asked_mean: f64,
    /// The 99th percentile of the same time over single connections.
    pub(crate) asked_p99: f64,
    /// From `socket` until both sides are closed.
    pub(crate) whole: f64,
    /// The CPU time of the process, from `socket` until both sides are closed.
    pub(crate) cpu: f64,
    /// The query alone.
    pub(crate) query: f64,
}

/// How the values of the rounds are distributed.
#[derive(Serialize)]
pub(crate) struct Spread {
    /// The median of the rounds.
    pub(crate) median: f64,
    /// The value of the fastest round.
    pub(crate) min: f64,
    /// The value of the slowest round.
    pub(crate) max: f64,
    /// The median absolute deviation, divided by the median.
    pub(crate) noise: f64,
}

impl Results {
    /// Computes all results from what was measured.
    pub(crate) fn of(machine: Machine, measured: &Measured) -> Self {
        Self {
            machine,
            figures: FIGURES
                .iter()
                .map(|figure| figure.result(measured))
                .collect(),
            cases: ConnectCase::ALL
                .into_iter()
                .filter_map(|case| Some(CaseSummary::of(case, measured.rounds.get(&case)?)))
                .collect(),
            programs: measured.programs.iter().map(rounded).collect(),
        }
    }
}

impl Results {
    /// The figures as JSON, with their topic.
    pub(crate) fn figures(&self) -> Result<Vec<Value>> {
        let figures = self.figures.iter().map(|figure| {
            let mut value = serde_json::to_value(figure)?;
            value["topic"] = "connect".into();
            Ok(value)
        });
        figures.collect()
    }
}

impl CaseSummary {
    fn of(case: ConnectCase, rounds: &[ConnectRound]) -> Self {
        let values = |of: fn(&ConnectRound) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
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

fn rounded(program: &ProgramTime) -> ProgramTime {
    ProgramTime {
        runs_per_connection: thousandth(program.runs_per_connection),
        ns_per_run: tenth(program.ns_per_run),
        ns_per_connection: tenth(program.ns_per_connection),
        ..program.clone()
    }
}
