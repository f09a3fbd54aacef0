//! `make bench`: Sidetrack's figures, side by side with its peers', in one run.
//!
//! ```text
//! bench ── for each round, for each case ── unshare --net bench worker CASE
//!   │                                          └─ namespace, cgroups, way, round, check
//!   └─ figures, programs, memory ── docs/bench/{results.json,results.md,connect.svg}
//! ```
//!
//! To add a peer: a [`case::Case`] and its [`way::Way`]. To add a figure: a line in
//! [`figure::FIGURES`].
#![deny(unsafe_code)]

mod case;
mod chart;
mod figure;
mod hierarchy;
mod machine;
mod memory;
mod namespace;
mod plan;
mod profile;
mod results;
mod round;
mod statistics;
#[allow(unsafe_code)]
mod sys;
mod table;
mod way;
mod worker;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures connection redirection, and writes docs/bench/.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds: for a look, not for the record.
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// One case, in a network namespace of its own; prints JSON. Run by bench itself.
    #[command(hide = true)]
    Worker(worker::Task),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Worker(task)) => worker::run(&task),
        None => plan::run(arguments.quick),
    }
}
