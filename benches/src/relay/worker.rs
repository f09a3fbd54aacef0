//! One contestant under one workload, in a process and a namespace of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::arena::Arena;
use super::contestant::Contestant;
use super::workload::{Reading, Workload};
use crate::namespace;

/// What a worker is to do; on its command line as JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Who.
    pub(crate) contestant: Contestant,
    /// Under what.
    pub(crate) workload: Workload,
    /// For so many milliseconds.
    pub(crate) milliseconds: u64,
}

/// Runs a worker, and returns what it found.
pub(crate) fn start(task: Task) -> Result<Reading> {
    let arguments = serde_json::to_string(&task)?;
    let output = namespace::run(&["relay-worker", &arguments]);
    let text =
        output.with_context(|| format!("{} under {:?}", task.contestant.name(), task.workload))?;
    Ok(serde_json::from_str(&text)?)
}

/// The worker itself.
pub(crate) fn run(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task).context("read the task")?;
    namespace::pin_first()?;
    namespace::prepare()?;
    namespace::add_origin()?;
    let arena = Arena::open(task.contestant)?;
    let found = task
        .workload
        .run(&arena, Duration::from_millis(task.milliseconds))?;
    drop(arena);
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}
