//! The `sidetrack` command.
//!
//! Exit codes: 0 done; 1 a negative answer (doctor, check, explain, apply --dry-run); 2 an error, told in one sentence. `run` exits
//! with its command's own code, 128 + N if signal N ended it.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod daemon;
mod demo;
mod doctor;
mod endpoint;
mod events;
mod explain;
mod flows;
mod installed;
mod launch;
mod object;
mod proxy;
mod reaper;
mod run;
mod scope;
mod shell;
mod state;
mod style;
mod table;
mod uninstall;
mod via;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Arguments, Described, Flows, Objects, Task};
use crate::object::Kind;

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
        Task::Uninstall(options) => uninstall::uninstall(&options),
        Task::Proxy(options) => proxy::proxy(options),
        Task::Apply(options) => apply::apply(&options),
        Task::Check(options) => apply::check(&options),
        Task::Provider(task) => objects(Kind::Provider, task, object::add_provider),
        Task::Sublayer(task) => objects(Kind::Sublayer, task, object::add_sublayer),
        Task::Service(task) => objects(Kind::Service, task, object::add_service),
        Task::Filter(task) => objects(Kind::Filter, task, object::add_filter),
        Task::State(options) => state::state(&options),
        Task::Flows(Flows::Ls(options)) => flows::list(&options),
        Task::Events(options) => events::events(&options),
        Task::Explain(options) => explain::explain(&options),
        Task::Schema(options) => schema(options.what),
        Task::Completions(options) => shell::completions(&options),
        Task::Man(options) => shell::manual(&options),
        Task::Launch(options) => launch::launch(&options),
        Task::Reap(options) => reaper::reap(&options),
    }
}

fn objects<A: clap::Args>(
    kind: Kind,
    task: Objects<A>,
    add: impl FnOnce(&A) -> Result<ExitCode>,
) -> Result<ExitCode> {
    match task {
        Objects::Add(options) => add(&options),
        Objects::Rm(options) => object::remove(kind, &options),
        Objects::Ls(options) => object::list(kind, &options),
        Objects::Show(options) => object::show(kind, &options),
    }
}

fn schema(what: Described) -> Result<ExitCode> {
    let schema = match what {
        Described::Flow => schemars::schema_for!(sidetrack_proxy::FlowLine),
        Described::Policy => sidetrack_policy::file::schema(),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&schema)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever reads our output may stop when it has had enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
