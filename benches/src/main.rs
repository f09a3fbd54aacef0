//! `make bench`: Sidetrack's figures, side by side with its peers', in one run.
//!
//! ```text
//! bench ── each topic ── rounds of all contestants, each in a worker: unshare --net bench …
//!   └─ docs/bench/{results.json,results.md}, and a page and a chart for each topic
//! ```
//!
//! `connect` has no proxies in it; `relay` has, and `load` is the traffic that goes through them. To add
//! a peer: a [`relay::contestant::Contestant`], its command in `relay/peer.rs`, its configuration in
//! `peers/`. To add a figure: a comparison in a topic.
#![deny(unsafe_code)]

mod comparison;
mod connect;
mod contest;
mod guard;
mod hierarchy;
mod kernel_memory;
mod load;
mod machine;
mod namespace;
mod netfilter;
mod picture;
mod policy;
mod relay;
mod report;
mod send;
mod solo;
mod statistics;
#[allow(unsafe_code)]
mod sys;
mod topic;
mod winsock;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};

use topic::Topic;

/// Measures Sidetrack beside its peers, and writes docs/bench/.
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds: for a look, not for the record.
    #[arg(long)]
    quick: bool,
    /// Only these topics; else all.
    #[arg(value_enum)]
    topics: Vec<Topic>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The exit code of `bench guard` if it could not measure; 1 means that a figure got slower.
const GUARD_FAILURE: u8 = 2;

#[derive(Subcommand)]
enum Command {
    Guard(guard::Options),
    /// One case, in a network namespace of its own; prints JSON. Run by bench itself.
    #[command(hide = true)]
    Worker(connect::worker::Task),
    /// One contestant under one workload, likewise.
    #[command(hide = true)]
    RelayWorker {
        /// As JSON.
        task: String,
    },
    /// The relay that proxies are held to.
    #[command(hide = true)]
    MinimalRelay {
        /// Of what.
        kind: relay::MinimalKind,
    },
    /// One way of datagrams, likewise.
    #[command(hide = true)]
    SendWorker {
        /// Which.
        sending: send::Sending,
    },
    /// The Winsock library, likewise.
    #[command(hide = true)]
    WinsockWorker,
    /// One measurement of policies, likewise.
    #[command(hide = true)]
    PolicyWorker {
        /// Which.
        measurement: policy::Measurement,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failure = match arguments.command {
        Some(Command::Guard(_)) => ExitCode::from(GUARD_FAILURE),
        _ => ExitCode::FAILURE,
    };
    begin(arguments).unwrap_or_else(|error| {
        eprintln!("{error:#}"); // without a backtrace: the pages quote what a worker says
        failure
    })
}

fn begin(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Some(Command::Guard(options)) => return guard::run(&options),
        Some(Command::Worker(task)) => connect::worker::run(&task),
        Some(Command::RelayWorker { task }) => relay::worker::run(&task),
        Some(Command::MinimalRelay { kind }) => relay::run_minimal(kind),
        Some(Command::SendWorker { sending }) => send::worker(sending),
        Some(Command::WinsockWorker) => winsock::worker(),
        Some(Command::PolicyWorker { measurement }) => policy::worker(measurement),
        None => run(arguments.quick, &arguments.topics),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run(quick: bool, topics: &[Topic]) -> Result<()> {
    prepare_host()?;
    let topics = match topics {
        [] => Topic::value_variants(),
        topics => topics,
    };
    topics.iter().try_for_each(|topic| topic.run(quick))
}

/// Fails if this host cannot measure, and removes what earlier runs left on it.
fn prepare_host() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root, for network namespaces and eBPF: use `make bench`"
    );
    ensure!(
        namespace::cpus()? > 1,
        "needs two CPUs: one for the traffic, one for the proxy; on one no figure would tell them apart"
    );
    raise_descriptor_limit()?;
    hierarchy::remove_all_left()
}

/// As far as this host lets us.
fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
