//! One case in a process and a namespace of its own: set up, warm up, measure, prove.

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use super::{memory, profile, round, way};
use crate::connect::case::Case;
use crate::namespace;

/// Connections before the counted ones: caches, slabs and branch predictors are warm then.
const WARM_UP: u32 = 2_000;

/// What a worker is to do.
#[derive(Args)]
pub(crate) struct Task {
    /// The case.
    case: Case,
    /// What is wanted of it.
    measurement: Measurement,
    /// How many connections.
    connections: u32,
}

/// What a worker finds out.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Measurement {
    /// A [`round::Round`]: times.
    Time,
    /// [`memory::Held`]: what idle connections take.
    Memory,
    /// [`profile::Program`]s: what each eBPF program takes.
    Profile,
}

impl Measurement {
    fn name(self) -> String {
        self.to_possible_value()
            .expect("none is hidden")
            .get_name()
            .to_owned()
    }
}

/// Runs a worker, and returns what it found.
pub(crate) fn start<T: serde::de::DeserializeOwned>(
    case: Case,
    measurement: Measurement,
    connections: u32,
) -> Result<T> {
    let what = measurement.name();
    let text = namespace::run(&["worker", case.name(), &what, &connections.to_string()])
        .with_context(|| format!("case {}, {what}", case.name()))?;
    Ok(serde_json::from_str(&text)?)
}

/// The worker itself.
pub(crate) fn run(task: &Task) -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let found = match task.measurement {
        Measurement::Time => serde_json::to_string(&time(task)?)?,
        Measurement::Memory => {
            serde_json::to_string(&memory::hold(&*way::open(task.case)?, task.connections)?)?
        }
        Measurement::Profile => {
            serde_json::to_string(&profile::take(task.case, task.connections)?)?
        }
    };
    println!("{found}");
    Ok(())
}

fn time(task: &Task) -> Result<round::Round> {
    let way = way::open(task.case)?;
    round::run(&*way, 0..WARM_UP)?;
    let made = WARM_UP + task.connections;
    let round = round::run(&*way, WARM_UP..made)?;
    way.check(made.into())?;
    Ok(round)
}
