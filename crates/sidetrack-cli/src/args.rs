//! The command line: subcommands, their options, and the help texts.
//!
//! The documentation comments in this module and in [`policy`] are the text that `--help` and the
//! manual pages show.

mod policy;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidetrack_proxy::Pattern;

pub(crate) use self::policy::*;
use crate::via::Via;

/// Redirect the connections of programs through local inspection proxies.
#[derive(Parser)]
#[command(
    name = "sidetrack",
    version,
    max_term_width = 100,
    after_long_help = "\
Examples:
  sudo sidetrack run -- curl https://example.com/     run a command through the built-in proxy
  sudo sidetrack apply policy.toml                    put a policy in force with sidetrackd
  sudo sidetrack explain --app curl --to example.com:443   find out where a connection would go

Exit codes: 0 is success, 1 a negative answer, 2 an error. `run` exits with its command's exit code."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a command with its TCP connections and UDP datagrams redirected through proxies.
    Run(RunArgs),
    /// Demonstrate redirection: real programs, two proxies in a chain, and servers on loopback.
    Demo,
    /// Check what this host lacks, and what earlier runs left behind.
    ///
    /// Each finding is one line that begins with "ok" or "no". The exit code is 0 if all findings
    /// are "ok", and 1 otherwise.
    Doctor(DoctorArgs),
    /// Remove from the kernel everything that a stopped sidetrackd or a killed `sidetrack run` left
    /// there.
    Uninstall(UninstallArgs),
    /// Run the built-in inspecting proxy for the service whose credentials are in SIDETRACK_LISTEN.
    ///
    /// `sidetrack run` starts it for `--via inspect`. It prints one line for each flow that ends.
    Proxy(ProxyArgs),
    /// Put a policy file in force, replacing what its owner applied before.
    Apply(ApplyArgs),
    /// Check a policy file for errors, without a daemon.
    ///
    /// The exit code is 1 if the file has an error.
    Check(CheckArgs),
    /// Manage providers: the vendors or products to which objects belong.
    #[command(subcommand)]
    Provider(ObjectCommand<AddProviderArgs>),
    /// Manage sublayers: groups of filters that are evaluated in the order of their weights.
    #[command(subcommand)]
    Sublayer(ObjectCommand<AddSublayerArgs>),
    /// Manage services: the targets to which filters redirect connections.
    #[command(subcommand)]
    Service(ObjectCommand<AddServiceArgs>),
    /// Manage filters: conditions with an action, such as permit, block or redirect.
    #[command(subcommand)]
    Filter(ObjectCommand<AddFilterArgs>),
    /// Show the daemon's state: the policy in force, counters, fill levels of tables, and sessions.
    State(StateArgs),
    /// Show redirected connections and UDP flows.
    #[command(subcommand)]
    Flows(FlowsCommand),
    /// Show events: blocked and redirected connections, absent services, sessions, commits.
    Events(EventsArgs),
    /// Explain where a connection would go, and which filters decide that.
    ///
    /// Nothing is changed and no connection is made. The exit code is 1 if the connection would be
    /// blocked.
    Explain(ExplainArgs),
    /// Print the JSON schema of flow lines or of policy files.
    Schema(SchemaArgs),
    /// Print a script that completes the arguments of sidetrack in a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages to a folder.
    #[command(hide = true)]
    Man(ManArgs),
    /// Enter a cgroup, change to a user, and execute a command. `run` uses it to start its
    /// processes.
    #[command(hide = true)]
    Launch(LaunchArgs),
    /// Wait for a run to end, and clean up if it was killed. `run` starts it.
    #[command(hide = true)]
    Reap,
}

#[derive(Args)]
#[command(after_long_help = "\
Examples:
  sudo sidetrack run -- curl https://example.com/
      Print one line for each connection of curl, as the built-in proxy sees it.
  sudo sidetrack run --via inspect:company --via inspect:mine --deny '*.ads.example' -- firefox
      Use two built-in proxies in a chain, and refuse connections to a domain.
  sudo sidetrack run --via exec:./my-proxy --via inspect --json flows.jsonl -- ./my-program
      Put a proxy under development first, and write all flows as JSON.")]
pub(crate) struct RunArgs {
    /// A proxy that the connections pass. Repeat the option for a chain, in the order given.
    ///
    /// `inspect` or `inspect:NAME` is the built-in proxy. `exec:COMMAND` starts a proxy that uses
    /// the SDK or the socket options. `tcp://ADDR:PORT` is a legacy proxy: it listens there
    /// already, and reads SO_ORIGINAL_DST. The default is one `inspect`.
    #[arg(long, value_name = "PROXY")]
    pub(crate) via: Vec<Via>,
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// Write each flow as one line of JSON to this file. `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What happens to connections while a proxy is not listening.
    #[arg(long, value_enum, default_value_t = OnAbsentArg::Block)]
    pub(crate) on_absent: OnAbsentArg,
    /// The user as whom the built-in proxies and those of `exec:` run. The default is the user of the command,
    /// who can read the memory of an `exec:` proxy, and end any proxy.
    #[arg(long, value_name = "NAME")]
    pub(crate) proxy_user: Option<String>,
    /// Kill a process of the command when it leaves the run's cgroup, because nothing inspects its connections
    /// any more. Without this option it is only reported.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print neither flows nor the summary.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The command to run, with its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// The rules of the built-in inspecting proxy.
#[derive(Args, Clone)]
pub(crate) struct RuleArgs {
    /// Refuse connections that match the pattern. Repeat the option for more patterns.
    ///
    /// A pattern is a host (example.com), all hosts below a domain (*.example.com), an address, or
    /// a prefix (10.0.0.0/8), optionally followed by :PORT. A denied connection is refused even if
    /// an allow pattern matches too.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) deny: Vec<Pattern>,
    /// Refuse all connections except those that match one of the allow patterns.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) allow: Vec<Pattern>,
    /// How the proxy answers a DNS query for a name that the rules deny.
    #[arg(long, value_enum, default_value_t = DnsDenialArg::Nxdomain)]
    pub(crate) dns_denial: DnsDenialArg,
    /// Whether programs may use QUIC. Without QUIC they use TCP, which the proxy can inspect in
    /// more detail.
    #[arg(long, value_enum, default_value_t = QuicArg::Allow)]
    pub(crate) quic: QuicArg,
    /// End a connection after this many seconds without a byte in either direction. UDP flows end
    /// after 60 seconds of silence, or after this time if it is shorter.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) idle_timeout: u64,
    /// When the connect of a program returns.
    #[arg(long, value_enum, default_value_t = ConnectArg::Pended)]
    pub(crate) connect: ConnectArg,
    /// Give up connecting to a destination after this many seconds. It applies where the program was
    /// accepted first; where its connect waits, its own time-out applies.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connect_timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DnsDenialArg {
    /// Answer that the name does not exist.
    Nxdomain,
    /// Answer that the query is refused by policy. Programs may then query their next name server.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuicArg {
    /// Allow QUIC, subject to the deny and allow patterns.
    Allow,
    /// Refuse QUIC. With `sidetrack run`, sending to port 443 fails at once with EACCES. On other
    /// ports, the proxy drops the first datagrams.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConnectArg {
    /// After the proxy has connected to the destination. If the proxy cannot connect, the program's
    /// connect fails with the same error. Where a rule needs the host that the program will name, it
    /// succeeds at once.
    Pended,
    /// At once: it succeeds before the proxy connects to the destination.
    Accepted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnAbsentArg {
    /// They are refused with ECONNREFUSED.
    Block,
    /// They continue without the proxy.
    Permit,
}

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Remove what earlier runs left behind.
    #[arg(long)]
    pub(crate) clean: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration of sidetrackd. The default is /etc/sidetrack/sidetrackd.toml, if it
    /// exists.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct UninstallArgs {
    /// The configuration of sidetrackd. The default is /etc/sidetrack/sidetrackd.toml, if it
    /// exists.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The folder in which the data path is pinned. The default is the configured one, or
    /// /sys/fs/bpf/sidetrack.
    #[arg(long, value_name = "PATH")]
    pub(crate) pins: Option<PathBuf>,
    /// Remove the data path even if sidetrackd is running.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// Print each flow as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct SchemaArgs {
    /// What the schema describes.
    #[arg(value_enum, default_value_t = SchemaSubject::Flow)]
    pub(crate) subject: SchemaSubject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaSubject {
    /// A flow line, as `run --json` writes it.
    Flow,
    /// A policy file, as `apply` reads it.
    Policy,
}

#[derive(Args)]
pub(crate) struct LaunchArgs {
    /// The cgroup to enter.
    #[arg(long)]
    pub(crate) cgroup: PathBuf,
    /// The numeric id of the user to change to.
    #[arg(long)]
    pub(crate) user: Option<u32>,
    /// Keep CAP_NET_RAW after the change of user.
    #[arg(long)]
    pub(crate) net_raw: bool,
    /// Hand the command what it needs to pend connects: the ring buffer of this id, and senders.
    #[arg(long, requires = "sender_cgroup")]
    pub(crate) ring: Option<u32>,
    /// The cgroup in which the senders are made.
    #[arg(long)]
    pub(crate) sender_cgroup: Option<PathBuf>,
    /// The command to execute, with its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}
