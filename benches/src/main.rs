//! `make bench` measures Sidetrack and its peers in the same run. `make bench-guard` compares two
//! commits.
//!
//! ```text
//! bench ── for each topic ── rounds of all contestants; each runs in a worker: unshare --net bench …
//!   └─ docs/bench/{results.json,results.md}, and a page and a chart for each topic
//! ```
//!
//! The topic `connect` runs without proxies. Most other topics run whole relays (`relay`), and
//! `load` generates their traffic. To add a peer, add a [`relay::contestant::Contestant`], its
//! command in `relay/proxy.rs` and its configuration in `peers/`. To add a figure, add a comparison
//! to a topic.
//!
//! `bench guard` calls the workers of other commits. Their command lines and the JSON that they
//! print therefore must not change: see `guard/plan.rs`.
#![deny(unsafe_code)]

mod chart;
mod comparison;
mod connect;
mod contest;
mod contest_plan;
mod guard;
mod hierarchy;
mod kernel_memory;
mod load;
mod machine;
mod namespace;
mod netfilter;
mod policy;
mod relay;
mod report;
mod rounds;
mod send;
mod solo;
mod statistics;
#[allow(unsafe_code)]
mod sys;
mod topic;
mod value;
mod winsock;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};

use topic::Topic;

/// Measures Sidetrack and its peers, and writes the results to docs/bench/.
#[derive(Parser)]
struct Arguments {
    /// Run fewer and shorter rounds. The results are less reliable, but docs/bench/ is written all
    /// the same.
    #[arg(long)]
    quick: bool,
    /// Measure only these topics. The figures of all other topics in docs/bench/ stay as they are.
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
    /// Measures one case of the topic connect, and prints JSON. `bench` starts it in a new network
    /// namespace.
    #[command(hide = true)]
    Worker(connect::worker::ConnectTask),
    /// Measures one contestant under one workload, and prints JSON. `bench` starts it in the same
    /// way.
    #[command(hide = true)]
    RelayWorker {
        /// The contestant, the workload and the duration, as JSON.
        task: String,
    },
    /// Runs the minimal relay that proxies are compared with.
    #[command(hide = true)]
    MinimalRelay {
        /// What to relay.
        traffic: relay::MinimalRelayTraffic,
    },
    /// Measures one case of the topic send, and prints JSON. `bench` starts it in the same way.
    #[command(hide = true)]
    SendWorker {
        /// What stands between sender and receiver.
        case: send::SendCase,
    },
    /// Measures the Winsock library, and prints JSON. `bench` starts it in the same way.
    #[command(hide = true)]
    WinsockWorker,
    /// Takes one measurement of the topic policy, and prints JSON. `bench` starts it in the same
    /// way.
    #[command(hide = true)]
    PolicyWorker {
        /// What to measure.
        measurement: policy::PolicyMeasurement,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failure = match arguments.command {
        Some(Command::Guard(_)) => ExitCode::from(GUARD_FAILURE),
        _ => ExitCode::FAILURE,
    };
    begin(arguments).unwrap_or_else(|error| {
        eprintln!("{error:#}"); // without a backtrace: the pages quote the message of a worker
        failure
    })
}

fn begin(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Some(Command::Guard(options)) => return guard::run(&options),
        Some(Command::Worker(task)) => connect::worker::run(&task),
        Some(Command::RelayWorker { task }) => relay::worker::run(&task),
        Some(Command::MinimalRelay { traffic }) => relay::run_minimal(traffic),
        Some(Command::SendWorker { case }) => send::worker(case),
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
        "needs root, for network namespaces and eBPF: use `make bench` or `make bench-guard`"
    );
    ensure!(
        namespace::cpus()? > 1,
        "needs two CPUs, one for the traffic and one for the proxy: on a single CPU, no figure could \
         separate the two"
    );
    raise_descriptor_limit()?;
    hierarchy::remove_all_leftovers()
}

/// Raises the limit on open descriptors to the maximum that this host allows.
fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
