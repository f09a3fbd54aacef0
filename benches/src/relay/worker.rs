//! A worker measures one contestant under one workload, in a separate process and namespace.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::contestant::Contestant;
use super::setup::RelaySetup;
use super::workload::{Reading, Workload};
use crate::namespace;

/// What a worker measures; its command line contains this as JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RelayTask {
    /// The contestant.
    pub(crate) contestant: Contestant,
    /// The traffic.
    pub(crate) workload: Workload,
    /// How long the traffic lasts, in milliseconds.
    pub(crate) milliseconds: u64,
}

/// Starts a worker, and returns what it measured.
pub(crate) fn start(task: RelayTask) -> Result<Reading> {
    let arguments = serde_json::to_string(&task)?;
    let output = namespace::run(&["relay-worker", &arguments]);
    let text =
        output.with_context(|| format!("{} under {:?}", task.contestant.name(), task.workload))?;
    Ok(serde_json::from_str(&text)?)
}

/// Measures what the task says, and prints the result as JSON. This is the worker.
pub(crate) fn run(task: &str) -> Result<()> {
    let task: RelayTask = serde_json::from_str(task).context("read the task")?;
    namespace::pin_first()?;
    namespace::prepare()?;
    namespace::add_origin()?;
    let setup = RelaySetup::open(task.contestant)?;
    let reading = task
        .workload
        .run(&setup, Duration::from_millis(task.milliseconds))?;
    drop(setup);
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}
