//! `bench guard`: whether the working tree ("head") is slower than another commit ("base").
//!
//! ```text
//! benches/guard: builds both sides
//!  └─ bench guard --base PATH: in each round, for each probe, a worker of each side:
//!      ├─ unshare --net BASE/bench WORKER     with its own bench, sidetrack and sidetrackd
//!      ├─ unshare --net HEAD/bench WORKER     in the next round, the head comes first
//!      └─ decision: the ratio of each round, an interval, and a verdict
//! ```
//!
//! Only the command lines of the workers and the JSON that they print are shared by both commits.
//! See [`plan`] for what that means when you change them.

mod decision;
mod plan;
mod rounds;
mod table;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use clap::builder::TypedValueParser;

use crate::guard::decision::Verdict;
use crate::guard::rounds::{GuardResult, Programs};
use crate::topic::Topic;

/// Topics that are measured if the command line names none. The others take longer (idle, policy,
/// chain, pended), need a peer (legacy), or rarely move (winsock).
const TOPICS: [Topic; 6] = [
    Topic::Connect,
    Topic::Rate,
    Topic::Latency,
    Topic::Stream,
    Topic::Datagram,
    Topic::Send,
];

/// The most rounds that can be asked for: a run of some hours.
const ROUNDS_MAX: i64 = 1_000;

/// Compares this build with the one of another commit, and says which figures moved beyond noise.
///
/// Exit code: 0 if no figure got slower, 1 if one did, 2 if that could not be measured.
/// `make bench-guard BASE=<commit>` builds both and runs this.
#[derive(Args)]
pub(crate) struct Options {
    /// The `bench` program of the base. Its own `sidetrack` and `sidetrackd` must lie next to it.
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// What the output calls the base.
    #[arg(long, value_name = "TEXT", default_value = "base")]
    base_name: String,
    /// What the output calls this build.
    #[arg(long, value_name = "TEXT", default_value = "head")]
    head_name: String,
    /// How many rounds to run. Each round measures every figure once on each side.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = rounds_parser())]
    rounds: u32,
    /// Also write everything that was measured to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print what would be measured, and measure nothing.
    #[arg(long, overrides_with = "dry_run")]
    dry_run: bool,
    /// The topics to measure. Without any: connect, rate, latency, stream, datagram and send.
    #[arg(value_enum)]
    topics: Vec<Topic>,
}

fn rounds_parser() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(i64::from(decision::ROUNDS_MIN)..=ROUNDS_MAX)
}

/// Measures both sides, and prints the table.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let probes = plan::probes(match &options.topics[..] {
        [] => &TOPICS,
        topics => topics,
    });
    if options.dry_run {
        print!("{}", table::plan(&probes));
        return Ok(ExitCode::SUCCESS);
    }
    crate::prepare_host()?;
    ensure!(
        options.base.is_file(),
        "there is no bench program at {}",
        options.base.display()
    );
    let programs = Programs {
        base: options.base.canonicalize().context("find the base")?,
        head: std::env::current_exe().context("find this program")?,
    };
    // Opened before the run: a path that cannot be written must not cost ten minutes.
    let mut json = match &options.json {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("write to {}", path.display()))?)
        }
        None => None,
    };
    let result = rounds::run(&programs, &probes, options.rounds);
    ensure!(!result.rows.is_empty(), "nothing could be measured");
    let names = [options.base_name.as_str(), options.head_name.as_str()];
    if let Some(file) = &mut json {
        let text = serde_json::to_string_pretty(&table::json(&result, names)?)?;
        writeln!(file, "{text}").context("write the JSON file")?;
    }
    print!("{}", table::text(&result, names, table::Style::stdout()));
    exit_code(&result)
}

fn exit_code(result: &GuardResult) -> Result<ExitCode> {
    let is_slower = |row: &rounds::Row| !row.is_control && row.change.verdict == Verdict::Slower;
    if result.rows.iter().any(is_slower) {
        return Ok(ExitCode::from(1));
    }
    ensure!(
        !result.left_out.iter().any(|one| one.is_head),
        "a measurement of the working tree failed, so nothing is known about its figures"
    );
    Ok(ExitCode::SUCCESS)
}
