//! Putting policies into force: how long a large one takes, what the kernel keeps of it, and how long a
//! commit holds up those who connect meanwhile.

mod apply;
mod swap;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::namespace;
use crate::solo::{self, Figure, Reading};
use crate::topic::{ROUNDS, ROUNDS_QUICK};

const NAME: &str = "policy";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// `sidetrack apply` of a file with 100,000 filters, twice, by a daemon of its own.
    Apply,
    /// Connects in scope while policies are swapped.
    Swaps,
    /// The same connects, and no swap.
    Still,
}

/// Measures all, and writes it down.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
    let mut readings: BTreeMap<&str, Vec<Reading>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        for (key, measurement) in [
            ("apply", Measurement::Apply),
            ("swaps", Measurement::Swaps),
            ("still", Measurement::Still),
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
    figures.push(Figure {
        name: "kernel memory of one of 100,000 filters".to_owned(),
        unit: "bytes",
        values: values("apply", "bytes"),
        over: None,
        goal: None,
    });
    let least = values("swaps", "swaps")
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    for (measure, what) in [
        ("p50", "half of all"),
        ("p999", "99.9 %"),
        ("most", "the longest"),
    ] {
        figures.push(Figure {
            name: format!("connect during {least} swaps or more, {what}, beside none"),
            unit: "ns",
            values: values("swaps", measure),
            over: Some(("no swaps", values("still", measure))),
            goal: None,
        });
    }
    solo::write(NAME, "Putting policies into force", &figures)
}

/// One measurement, in a namespace of its own.
pub(crate) fn worker(measurement: Measurement) -> Result<()> {
    namespace::prepare()?;
    let found = match measurement {
        Measurement::Apply => apply::measure()?,
        Measurement::Swaps => swap::measure(true)?,
        Measurement::Still => swap::measure(false)?,
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn start(measurement: Measurement) -> Result<Reading> {
    let name = measurement.to_possible_value().expect("none is hidden");
    let text = namespace::run(&["policy-worker", name.get_name()]);
    let text = text.with_context(|| format!("policy, {}", name.get_name()))?;
    Ok(serde_json::from_str(&text)?)
}

fn apply_figure(what: &str, values: Vec<f64>, goal: Option<f64>) -> Figure {
    Figure {
        name: format!("apply of {} filters, {what}", apply::FILTERS),
        unit: "ns",
        values,
        over: None,
        goal,
    }
}
