//! The `sidetrack` command.
//!
//! Exit codes: 0 is success. 1 is a negative answer of `doctor`, `check`, `explain`, `apply
//! --dry-run` or `demo`. 2 is an error, explained in one sentence on standard error. `run` exits
//! with its command's exit code, or with 128 + N if signal N ended the command.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod daemon;
mod demo;
mod doctor;
mod event_kind;
mod events;
mod explain;
mod flows;
mod format;
mod generate;
mod installation;
mod launch;
mod object;
mod proxy;
mod run;
mod run_cgroup;
mod state;
mod table;
mod text_style;
mod uninstall;
mod user;
mod via;
mod watcher;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sidetrack_abi::text::PrintableLines;

use crate::args::{Arguments, Command, FlowsCommand, ObjectCommand, SchemaSubject};
use crate::object::ObjectKind;

/// Exit code for errors of `sidetrack` itself, as opposed to negative answers.
const EXIT_FAILURE: u8 = 2;

fn main() -> ExitCode {
    // Processes that `run` starts by /proc/self/exe would be named `exe` in flows, events and ps.
    let _ = rustix::thread::set_name(c"sidetrack");
    match execute(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sidetrack: {:#}", PrintableLines(error));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Demo => demo::demo(),
        Command::Doctor(options) => doctor::doctor(&options),
        Command::Uninstall(options) => uninstall::uninstall(&options),
        Command::Proxy(options) => proxy::proxy(options),
        Command::Apply(options) => apply::apply(&options),
        Command::Check(options) => apply::check(&options),
        Command::Provider(command) => {
            execute_object(ObjectKind::Provider, command, object::add_provider)
        }
        Command::Sublayer(command) => {
            execute_object(ObjectKind::Sublayer, command, object::add_sublayer)
        }
        Command::Service(command) => {
            execute_object(ObjectKind::Service, command, object::add_service)
        }
        Command::Filter(command) => execute_object(ObjectKind::Filter, command, object::add_filter),
        Command::State(options) => state::state(&options),
        Command::Flows(FlowsCommand::Ls(options)) => flows::list(&options),
        Command::Events(options) => events::events(&options),
        Command::Explain(options) => explain::explain(&options),
        Command::Schema(options) => schema(options.subject),
        Command::Completions(options) => generate::completions(&options),
        Command::Man(options) => generate::manual(&options),
        Command::Launch(options) => launch::launch(&options),
        Command::Reap => watcher::watch(),
    }
}

fn execute_object<A: clap::Args>(
    kind: ObjectKind,
    command: ObjectCommand<A>,
    add: impl FnOnce(&A) -> Result<ExitCode>,
) -> Result<ExitCode> {
    match command {
        ObjectCommand::Add(options) => add(&options),
        ObjectCommand::Rm(options) => object::remove(kind, &options),
        ObjectCommand::Ls(options) => object::list(kind, &options),
        ObjectCommand::Show(options) => object::show(kind, &options),
    }
}

fn schema(subject: SchemaSubject) -> Result<ExitCode> {
    let schema = match subject {
        SchemaSubject::Flow => schemars::schema_for!(sidetrack_proxy::FlowLine),
        SchemaSubject::Policy => sidetrack_policy_file::schema(),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&schema)?)?;
    Ok(ExitCode::SUCCESS)
}

/// True if standard output was closed by its reader, for example by `head`. That is not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
