//! The command line of the subcommands that talk to the daemon, and of `check`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// How to reach the daemon.
#[derive(Args, Clone)]
pub(crate) struct DaemonArgs {
    /// The daemon's socket. The default is $SIDETRACK_SOCKET, or /run/sidetrack/sidetrackd.sock.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_long_help = "\
Examples:
  sudo sidetrack apply --dry-run policy.toml   show what would change
  sudo sidetrack apply policy.toml             put the policy in force, in one commit")]
pub(crate) struct ApplyArgs {
    /// The policy file, in TOML. `-` is standard input.
    pub(crate) file: PathBuf,
    /// Show what would change, but change nothing. The exit code is 1 if something would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The owner of the policy, instead of the one that the file names.
    ///
    /// All objects that the same owner applied before and that the file no longer contains are
    /// deleted.
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The policy file, in TOML. `-` is standard input.
    pub(crate) file: PathBuf,
    /// Print the objects of the file, or its errors, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The commands for one kind of object. `A` is the arguments of `add`.
#[derive(Subcommand)]
pub(crate) enum ObjectCommand<A: Args> {
    /// Add an object and print its key.
    Add(A),
    /// Delete objects, all of them or none.
    Rm(RemoveArgs),
    /// List all objects.
    Ls(ListArgs),
    /// Show all properties of an object.
    Show(ShowArgs),
}

#[derive(Args)]
pub(crate) struct RemoveArgs {
    /// The name or key of each object to delete. A filter's name stands for the filters of both
    /// address families.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// List only the objects of this provider, given by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Print the objects as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The object's name or key.
    pub(crate) name: String,
    /// Print the object as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// What objects of all kinds have in common.
#[derive(Args)]
pub(crate) struct CommonObjectArgs {
    /// The object's name, by which other objects and commands refer to it.
    pub(crate) name: String,
    /// A description for people.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// The object's key. By default the daemon makes one.
    #[arg(long, value_name = "UUID")]
    pub(crate) key: Option<String>,
    /// Keep the object across a reboot.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Print the key as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct AddProviderArgs {
    #[command(flatten)]
    pub(crate) common: CommonObjectArgs,
    /// The systemd unit of the product. The provider's persistent objects are loaded only while the
    /// unit is enabled.
    #[arg(long, value_name = "UNIT")]
    pub(crate) service_name: Option<String>,
}

#[derive(Args)]
pub(crate) struct AddSublayerArgs {
    #[command(flatten)]
    pub(crate) common: CommonObjectArgs,
    /// The provider to which the sublayer belongs, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// The weight, from 0 to 65,535. Sublayers of higher weight are evaluated first.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) weight: u16,
}

#[derive(Args)]
pub(crate) struct AddServiceArgs {
    #[command(flatten)]
    pub(crate) common: CommonObjectArgs,
    /// The provider to which the service belongs, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// What happens to the proxy's own connections if they carry no redirect records and match a
    /// filter.
    #[arg(long, value_enum, default_value_t = RecordsModeArg::Required)]
    pub(crate) records: RecordsModeArg,
    /// Refuse (EPERM) connections that carry this service's redirect records and go to another
    /// destination than that of their flow.
    #[arg(long)]
    pub(crate) records_bound: bool,
    /// When a program's connect returns, if its connection is redirected to the service.
    #[arg(long, value_enum, default_value_t = ConnectModeArg::Accepted)]
    pub(crate) connect: ConnectModeArg,
    /// What happens to connections while the service is not listening.
    #[arg(long, value_enum, default_value_t = super::OnAbsentArg::Block)]
    pub(crate) on_absent: super::OnAbsentArg,
    /// The redirect context that the proxy gets with each connection: none, auto (the program and the
    /// original destination), text:TEXT or hex:DIGITS. The default is none.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RecordsModeArg {
    /// They are refused with EPERM, and reported.
    Required,
    /// They are not redirected. Filters that block still apply.
    RequiredOrOwn,
    /// They are classified by the filters that come after the last one that redirects to the service.
    /// For proxies that cannot set records.
    Legacy,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ConnectModeArg {
    /// At once: it succeeds before the proxy connects onward.
    Accepted,
    /// After the proxy has connected onward. If the proxy cannot connect, the program's connect fails with
    /// the same error. A proxy that cannot pend connects accepts them at once. Not with legacy records.
    Pended,
}

#[derive(Args)]
#[command(after_long_help = "\
Examples:
  sudo sidetrack filter add web --layer connect-redirect --redirect inspect \\
      --match remote_port=80 --match remote_port=443
  sudo sidetrack filter add 'no mail' --layer auth-connect --action block \\
      --match remote_port=25 --match 'cgroup={ prefix = \"/system.slice\" }'

docs/policy.md lists the layers, fields, match types and actions.")]
pub(crate) struct AddFilterArgs {
    #[command(flatten)]
    pub(crate) common: CommonObjectArgs,
    /// The layer at which the filter is evaluated: bind-redirect, connect-redirect, auth-connect,
    /// auth-recv-accept, flow-established or endpoint-closure.
    ///
    /// `connect-redirect` adds one filter for each address family; `connect-redirect-v4` adds one for
    /// IPv4 only.
    #[arg(long)]
    pub(crate) layer: String,
    /// What the filter does if it matches: permit, block, veto or inspect. Either --action or --redirect
    /// is required.
    #[arg(
        long,
        required_unless_present = "redirect",
        conflicts_with = "redirect"
    )]
    pub(crate) action: Option<String>,
    /// Redirect matching connections to this service, given by name or key.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) redirect: Option<String>,
    /// A condition, written as in a policy file: remote_port=443, remote_address=10.0.0.0/8,
    /// 'cgroup={ prefix = "/system.slice" }'.
    ///
    /// Repeat the option with the same field for alternatives, and with other fields for further
    /// conditions. Without conditions, the filter matches everything.
    #[arg(long = "match", short, value_name = "FIELD=VALUE")]
    pub(crate) matches: Vec<String>,
    /// The provider to which the filter belongs, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// The sublayer to which the filter belongs, by name or key. The default is the universal
    /// sublayer.
    #[arg(long, value_name = "NAME")]
    pub(crate) sublayer: Option<String>,
    /// The weight of the filter in its sublayer: a number, class:0 to class:15, or auto. Filters of
    /// higher weight are evaluated first.
    #[arg(long, default_value = "auto")]
    pub(crate) weight: String,
    /// Make the verdict hard, so that lower sublayers cannot change it.
    #[arg(long)]
    pub(crate) clear_action_right: bool,
    /// Add the filter, but do not evaluate it.
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Put the filter in force at boot, until the daemon has loaded its store.
    #[arg(long, conflicts_with = "persistent")]
    pub(crate) boot_time: bool,
    /// With --redirect: what happens to connections while the service is not listening. The default
    /// is the service's own setting.
    #[arg(long, value_enum)]
    pub(crate) on_absent: Option<super::OnAbsentArg>,
    /// With --redirect: the redirect context that the proxy gets with each connection: none, auto,
    /// text:TEXT or hex:DIGITS. The default is the service's own context.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

#[derive(Args)]
pub(crate) struct StateArgs {
    /// Print the state as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also measure the cost of each hook for this many seconds, from 1 to 60 (1 by default). This
    /// needs root.
    ///
    /// The kernel's own timing of eBPF programs is switched on for that time.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=60)
    )]
    pub(crate) costs: Option<u64>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Subcommand)]
pub(crate) enum FlowsCommand {
    /// List the redirected connections and UDP flows that the kernel knows.
    Ls(ListFlowsArgs),
}

#[derive(Args)]
pub(crate) struct ListFlowsArgs {
    /// Also list flows that closed within the last 60 seconds.
    #[arg(long)]
    pub(crate) closed: bool,
    /// Print the flows as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
#[command(after_long_help = "\
Examples:
  sidetrack events                                         show the events that the daemon has kept
  sidetrack events --follow --kind classify-block --json   print each blocked connection as JSON")]
pub(crate) struct EventsArgs {
    /// Print new events as they happen, until interrupted. Without this option, the events that the
    /// daemon has kept are printed.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// With --follow: first print the events that the daemon has kept.
    #[arg(long, requires = "follow")]
    pub(crate) backlog: bool,
    /// Print only events of these kinds. Repeat the option, or separate the kinds by commas. `missed`
    /// counts events that were lost, and is always printed; `mended` reports that the daemon
    /// repaired something.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = crate::event_kind::kind_names())]
    pub(crate) kinds: Vec<String>,
    /// Print each event as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
#[group(id = "subject", required = true, args = ["to", "flow"])]
#[command(after_long_help = "\
Examples:
  sidetrack explain --app curl --to example.com:443
      Explain a connection of curl, run by you.
  sidetrack explain --app /usr/bin/ssh --to 10.0.0.5:22 --uid alice --layer auth-connect
      Explain only one layer, for a connection of another user.
  sidetrack explain --flow 4711
      Classify an existing flow again. `sidetrack flows ls` lists the ids.")]
pub(crate) struct ExplainArgs {
    /// The destination of the connection: an address or a host name, and a port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,
    /// Classify an existing flow again, by the policy in force now. `sidetrack flows ls` lists the
    /// ids.
    #[arg(long, value_name = "ID", conflicts_with_all = ["app", "to", "from", "proto", "uid", "cgroup", "netns"])]
    pub(crate) flow: Option<u64>,
    /// The program that connects: a path, or a name to find in PATH. The default is a program that
    /// no filter names.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) app: Option<PathBuf>,
    /// The source address and port, if the program binds its socket.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) from: Option<std::net::SocketAddr>,
    /// The transport protocol.
    #[arg(long, value_enum, default_value_t = ProtocolArg::Tcp)]
    pub(crate) proto: ProtocolArg,
    /// The user who runs the program: a name or a number. The default is the user who runs this
    /// command, which is root under sudo.
    #[arg(long, value_name = "USER")]
    pub(crate) uid: Option<String>,
    /// The program's cgroup, as a path below the root of the hierarchy. The default is the root.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// The cookie of the program's network namespace. The default is the daemon's namespace.
    #[arg(long, value_name = "COOKIE")]
    pub(crate) netns: Option<u64>,
    /// Explain only this layer, such as auth-connect. The default is all layers, from the program
    /// to the destination.
    #[arg(long)]
    pub(crate) layer: Option<String>,
    /// Print the explanation as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Clone, Copy, ValueEnum)]
#[allow(missing_docs)]
pub(crate) enum ProtocolArg {
    Tcp,
    Udp,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell for which the script is.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// An existing folder for the manual pages.
    pub(crate) folder: PathBuf,
}
