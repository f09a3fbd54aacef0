//! Putting policies into force: how long a large policy takes to apply, how much memory it takes in
//! the kernel, and how long a commit delays connections.

mod apply;
mod swap;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::namespace;
use crate::rounds::rounds;
use crate::solo::{self, Reading, SoloFigure};

const NAME: &str = "policy";

/// What a worker measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyMeasurement {
    /// `sidetrack apply` of a file with 100,000 filters, twice, with a separate daemon.
    Apply,
    /// Connects in the scope while policies are swapped.
    Swaps,
    /// The same connects while no policy is swapped.
    Still,
}

/// Takes all measurements, and writes the results to docs/bench/.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = rounds(quick);
    let mut readings: BTreeMap<&str, Vec<Reading>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        for (key, measurement) in [
            ("apply", PolicyMeasurement::Apply),
            ("swaps", PolicyMeasurement::Swaps),
            ("still", PolicyMeasurement::Still),
        ] {
            readings.entry(key).or_default().push(start(measurement)?);
        }
    }
    let values = |key: &str, measure: &str| -> Vec<f64> {
        let rounds = readings[key].iter();
        rounds.map(|reading| reading[measure]).collect()
    };
    let mut figures = vec![
        apply_figure("from file to in force", values("apply", "first"), Some(2e9)),
        apply_figure(
            "from file to in force, 1,000 of them changed",
            values("apply", "second"),
            Some(2e9),
        ),
    ];
    figures.push(SoloFigure {
        name: "kernel memory of one of 100,000 filters".to_owned(),
        unit: "bytes",
        values: values("apply", "bytes"),
        over: None,
        goal: None,
    });
    let swaps_min = values("swaps", "swaps")
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    for (measure, what) in [
        ("p50", "half of all"),
        ("p999", "99.9 %"),
        ("most", "the longest"),
    ] {
        figures.push(SoloFigure {
            name: format!("connect during {swaps_min} swaps or more, {what}, compared with none"),
            unit: "ns",
            values: values("swaps", measure),
            over: Some(("no swaps", values("still", measure))),
            goal: None,
        });
    }
    solo::write(NAME, "Putting policies into force", &figures)
}

/// Takes one measurement in the namespace of this process, and prints it as JSON.
pub(crate) fn worker(measurement: PolicyMeasurement) -> Result<()> {
    namespace::prepare()?;
    let reading = match measurement {
        PolicyMeasurement::Apply => apply::measure()?,
        PolicyMeasurement::Swaps => swap::measure(true)?,
        PolicyMeasurement::Still => swap::measure(false)?,
    };
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}

fn start(measurement: PolicyMeasurement) -> Result<Reading> {
    let name = measurement
        .to_possible_value()
        .expect("no variant is hidden");
    let text = namespace::run(&["policy-worker", name.get_name()]);
    let text = text.with_context(|| format!("policy, {}", name.get_name()))?;
    Ok(serde_json::from_str(&text)?)
}

fn apply_figure(what: &str, values: Vec<f64>, goal: Option<f64>) -> SoloFigure {
    SoloFigure {
        name: format!("apply of {} filters, {what}", apply::FILTERS),
        unit: "ns",
        values,
        over: None,
        goal,
    }
}
