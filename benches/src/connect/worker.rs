//! A worker measures one case in a separate process and namespace: it sets up the case, warms up,
//! measures, and checks the counters.

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use super::{memory, profile, round, setup};
use crate::connect::case::ConnectCase;
use crate::namespace;

/// Connections that are made before the measurement, so that caches, slabs and branch predictors
/// are warm.
const WARM_UP: u32 = 2_000;

/// What a worker measures.
#[derive(Args)]
pub(crate) struct ConnectTask {
    /// The case.
    case: ConnectCase,
    /// What to measure of it.
    measurement: ConnectMeasurement,
    /// The number of connections.
    connections: u32,
}

/// What a worker measures of a case.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ConnectMeasurement {
    /// The duration of each step: a [`round::ConnectRound`].
    Time,
    /// The kernel memory of idle connections: a [`memory::HeldMemory`].
    Memory,
    /// The run time of each eBPF program: a list of [`profile::ProgramTime`].
    Profile,
}

impl ConnectMeasurement {
    fn name(self) -> String {
        self.to_possible_value()
            .expect("no variant is hidden")
            .get_name()
            .to_owned()
    }
}

/// Starts a worker, and returns what it measured.
pub(crate) fn start<T: serde::de::DeserializeOwned>(
    case: ConnectCase,
    measurement: ConnectMeasurement,
    connections: u32,
) -> Result<T> {
    let what = measurement.name();
    let text = namespace::run(&["worker", case.name(), &what, &connections.to_string()])
        .with_context(|| format!("case {}, {what}", case.name()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Measures what the task says, and prints the result as JSON. This is the worker.
pub(crate) fn run(task: &ConnectTask) -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let json = match task.measurement {
        ConnectMeasurement::Time => serde_json::to_string(&time(task)?)?,
        ConnectMeasurement::Memory => {
            let setup = setup::open(task.case)?;
            serde_json::to_string(&memory::measure(&*setup, task.connections)?)?
        }
        ConnectMeasurement::Profile => {
            serde_json::to_string(&profile::take(task.case, task.connections)?)?
        }
    };
    println!("{json}");
    Ok(())
}

fn time(task: &ConnectTask) -> Result<round::ConnectRound> {
    let setup = setup::open(task.case)?;
    round::run(&*setup, 0..WARM_UP)?;
    let made = WARM_UP + task.connections;
    let round = round::run(&*setup, WARM_UP..made)?;
    setup.check(made.into())?;
    Ok(round)
}
