//! What can be said on the command line.

mod policy;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidetrack_proxy::Pattern;

pub(crate) use self::policy::*;
use crate::via::Via;

/// Divert programs' connections through local inspection proxies.
#[derive(Parser)]
#[command(name = "sidetrack", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Run a command, with its TCP connections and UDP datagrams diverted through proxies.
    Run(Run),
    /// Show the main job on real connections: two proxies in a chain, and origins of its own.
    Demo,
    /// Say what this host lacks, and what an earlier run left behind.
    ///
    /// Exits with 0 if all is well, with 1 if not.
    Doctor(Doctor),
    /// Take everything out of the kernel that a stopped sidetrackd, or dead runs, left there.
    Uninstall(Uninstall),
    /// Be the inspecting proxy of a service whose credentials are in SIDETRACK_LISTEN.
    Proxy(Proxy),
    /// Put a policy file in force, whole, in the place of its owner's last one.
    Apply(Apply),
    /// Say what is wrong with a policy file, without a daemon. Exits with 1 if something is.
    Check(Check),
    /// Who owns objects.
    #[command(subcommand)]
    Provider(Objects<AddProvider>),
    /// Groups of filters, each with a place among the others.
    #[command(subcommand)]
    Sublayer(Objects<AddSublayer>),
    /// Where filters redirect to.
    #[command(subcommand)]
    Service(Objects<AddService>),
    /// The rules.
    #[command(subcommand)]
    Filter(Objects<AddFilter>),
    /// Show what is in force, in numbers, and how full the kernel's tables are.
    State(State),
    /// Redirected connections.
    #[command(subcommand)]
    Flows(Flows),
    /// Tell what happened: blocks, redirects, absent services, sessions, commits.
    Events(Events),
    /// Say where a connection would go, and why. Exits with 1 if it would be blocked.
    Explain(Explain),
    /// Print a JSON schema.
    Schema(Schema),
    /// Print a script that completes sidetrack's arguments.
    Completions(Completions),
    /// Write manual pages.
    #[command(hide = true)]
    Man(Man),
    #[command(hide = true)]
    Launch(Launch),
    #[command(hide = true)]
    Reap(Reap),
}

#[derive(Args)]
pub(crate) struct Run {
    /// A proxy that the connections pass; repeat it for a chain, in this order.
    ///
    /// inspect or inspect:NAME is the built-in one; exec:COMMAND starts one that uses the SDK or the
    /// socket options; tcp://ADDR:PORT is one that listens there already and asks SO_ORIGINAL_DST.
    /// Without any, it is one inspect.
    #[arg(long, value_name = "PROXY")]
    pub(crate) via: Vec<Via>,
    #[command(flatten)]
    pub(crate) rules: Rules,
    /// Write each flow as a line of JSON to this file; - is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What happens to connections while a proxy is not listening.
    #[arg(long, value_enum, default_value_t = OnAbsent::Block)]
    pub(crate) on_absent: OnAbsent,
    /// Print no flows and no summary.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What the inspecting proxy lets pass.
#[derive(Args, Clone)]
pub(crate) struct Rules {
    /// Refuse connections to a host (example.com, *.example.com), an address or a prefix
    /// (10.0.0.0/8), each with :PORT if wanted. Deny wins over allow.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) deny: Vec<Pattern>,
    /// Let pass only what matches one of these.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) allow: Vec<Pattern>,
    /// What a DNS query for a denied name is answered.
    #[arg(long, value_enum, default_value_t = DnsDenial::Nxdomain)]
    pub(crate) dns_denial: DnsDenial,
    /// Whether QUIC may begin. Without it, programs use TCP, which shows more.
    #[arg(long, value_enum, default_value_t = Quic::Allow)]
    pub(crate) quic: Quic,
    /// End a connection over which no byte has gone for so many seconds; datagrams' flows end after
    /// 60 at the latest.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) idle_timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DnsDenial {
    /// As if there were no such name.
    Nxdomain,
    /// For policy; programs may then ask their next server.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Quic {
    /// It goes on, as far as the rules let it.
    Allow,
    /// To port 443, sending fails at once (EACCES); to other ports, its first datagrams are dropped.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnAbsent {
    /// They are refused.
    Block,
    /// They go on without it.
    Permit,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Remove what an earlier run left behind.
    #[arg(long)]
    pub(crate) clean: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// sidetrackd's configuration; otherwise /etc/sidetrack/sidetrackd.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Uninstall {
    /// sidetrackd's configuration; otherwise /etc/sidetrack/sidetrackd.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the data path is pinned; otherwise as the configuration says, or
    /// /sys/fs/bpf/sidetrack.
    #[arg(long, value_name = "PATH")]
    pub(crate) pins: Option<PathBuf>,
    /// Even while sidetrackd runs.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub(crate) rules: Rules,
    /// Print each flow as a line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Schema {
    /// Of what.
    #[arg(value_enum, default_value_t = Described::Flow)]
    pub(crate) what: Described,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    /// A flow line, as run --json writes it.
    Flow,
    /// A policy file.
    Policy,
}

/// Become another program, in a cgroup, perhaps as another user.
#[derive(Args)]
pub(crate) struct Launch {
    #[arg(long)]
    pub(crate) cgroup: PathBuf,
    #[arg(long)]
    pub(crate) user: Option<u32>,
    /// Keep CAP_NET_RAW, whoever the user is.
    #[arg(long)]
    pub(crate) net_raw: bool,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Clean up after a `run` that was killed.
#[derive(Args)]
pub(crate) struct Reap {
    #[arg(long)]
    pub(crate) cgroup: PathBuf,
}
