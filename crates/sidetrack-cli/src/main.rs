//! The `sidetrack` command.
//!
//! Exit codes: 0 done; 1 a negative answer (doctor); 2 an error, told in one sentence. `run` exits
//! with its command's own code, 128 + N if signal N ended it.
#![forbid(unsafe_code)]

mod args;
mod demo;
mod doctor;
mod launch;
mod proxy;
mod reaper;
mod run;
mod scope;
mod style;
mod via;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Arguments, Task};

/// An error of ours, of any kind.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sidetrack: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Run(options) => run::run(&options),
        Task::Demo => demo::demo(),
        Task::Doctor(options) => doctor::doctor(&options),
        Task::Proxy(options) => proxy::proxy(options),
        Task::Schema => {
            let schema = schemars::schema_for!(sidetrack_proxy::FlowLine);
            let text = serde_json::to_string_pretty(&schema)?;
            writeln!(io::stdout(), "{text}")?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Launch(options) => launch::launch(&options),
        Task::Reap(options) => reaper::reap(&options),
    }
}

/// Whoever reads our output may stop when it has had enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
