//! What can be said to the daemon.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Where the daemon is.
#[derive(Args, Clone)]
pub(crate) struct Daemon {
    /// The daemon's socket; otherwise SIDETRACK_SOCKET's, or /run/sidetrack/sidetrackd.sock.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Apply {
    /// The policy, in TOML; - is standard input.
    pub(crate) file: PathBuf,
    /// Only show what would change. Exits with 1 if something would.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Whose the policy is, whatever the file says. An apply replaces all that its owner applied before.
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
pub(crate) struct Check {
    /// The policy, in TOML; - is standard input.
    pub(crate) file: PathBuf,
    /// Print what it has, or what is wrong, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with objects of a kind; `A` is what adding one needs.
#[derive(Subcommand)]
pub(crate) enum Objects<A: Args> {
    /// Add one.
    Add(A),
    /// Delete some.
    Rm(Remove),
    /// List them.
    Ls(List),
    /// Show one whole.
    Show(Show),
}

#[derive(Args)]
pub(crate) struct Remove {
    /// By name or key. A filter's name stands for both families' filters.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only this provider's.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Print them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
pub(crate) struct Show {
    /// By name or key.
    pub(crate) name: String,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

/// What objects of all kinds have.
#[derive(Args)]
pub(crate) struct Common {
    /// For people, and to refer to it.
    pub(crate) name: String,
    /// For people.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Its UUID; one is made if it is left out.
    #[arg(long, value_name = "UUID")]
    pub(crate) key: Option<String>,
    /// It survives a reboot.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Print its key as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
pub(crate) struct AddProvider {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The systemd unit of the product: its persistent objects are loaded only while it is enabled.
    #[arg(long, value_name = "UNIT")]
    pub(crate) service_name: Option<String>,
}

#[derive(Args)]
pub(crate) struct AddSublayer {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Whose it is, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// The higher, the earlier: 0 to 65,535.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) weight: u16,
}

#[derive(Args)]
pub(crate) struct AddService {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Whose it is, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// What its own connects without records get.
    #[arg(long, value_enum, default_value_t = Records::Required)]
    pub(crate) records: Records,
    /// What becomes of connections while nobody listens.
    #[arg(long, value_enum, default_value_t = super::OnAbsent::Block)]
    pub(crate) on_absent: super::OnAbsent,
    /// What the proxy is told besides: none, auto, text:TEXT or hex:DIGITS.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Records {
    /// They are blocked and reported.
    Required,
    /// They go straight on.
    RequiredOrOwn,
    /// They go on from behind the service's place.
    Legacy,
}

#[derive(Args)]
pub(crate) struct AddFilter {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Where it is asked: connect-redirect for both families, connect-redirect-v4 for one.
    #[arg(long)]
    pub(crate) layer: String,
    /// What it does: permit, block, veto, inspect.
    #[arg(
        long,
        required_unless_present = "redirect",
        conflicts_with = "redirect"
    )]
    pub(crate) action: Option<String>,
    /// To which service it redirects, by name or key.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) redirect: Option<String>,
    /// What it asks, as in a policy file: remote_port=443, remote_address=10.0.0.0/8,
    /// 'cgroup={ prefix = "/system.slice" }'. Repeat it: the same field for alternatives, another
    /// field for more conditions.
    #[arg(long = "match", short, value_name = "FIELD=VALUE")]
    pub(crate) matches: Vec<String>,
    /// Whose it is, by name or key.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Among which others, by name or key; otherwise the universal one.
    #[arg(long, value_name = "NAME")]
    pub(crate) sublayer: Option<String>,
    /// Its place in the sublayer: a number, class:0 to class:15, or auto.
    #[arg(long, default_value = "auto")]
    pub(crate) weight: String,
    /// Its verdict is final for lower sublayers.
    #[arg(long)]
    pub(crate) clear_action_right: bool,
    /// Keep it, but do not judge by it.
    #[arg(long)]
    pub(crate) disabled: bool,
    /// In force from boot until the daemon's store is loaded.
    #[arg(long, conflicts_with = "persistent")]
    pub(crate) boot_time: bool,
    /// Of a redirect: what becomes of connections while nobody listens.
    #[arg(long, value_enum)]
    pub(crate) on_absent: Option<super::OnAbsent>,
    /// Of a redirect: what the proxy is told besides: none, auto, text:TEXT or hex:DIGITS.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

#[derive(Args)]
pub(crate) struct State {
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also what each hook takes, timed by the kernel for so many seconds, 1 to 60 (1 if not said); as root.
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
    pub(crate) daemon: Daemon,
}

#[derive(Subcommand)]
pub(crate) enum Flows {
    /// List them.
    Ls(ListFlows),
}

#[derive(Args)]
pub(crate) struct ListFlows {
    /// Also those that closed within the last 60 s.
    #[arg(long)]
    pub(crate) closed: bool,
    /// Print them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
pub(crate) struct Events {
    /// Stay, and tell what happens from now on.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// With --follow: those that the daemon kept first.
    #[arg(long, requires = "follow")]
    pub(crate) backlog: bool,
    /// Only these kinds, such as classify-block; repeat it, or separate them by commas.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = crate::events::kind_names())]
    pub(crate) kinds: Vec<String>,
    /// Print each as a line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Args)]
#[group(id = "subject", required = true, args = ["to", "flow"])]
pub(crate) struct Explain {
    /// Where the program would connect: an address or a host, and a port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,
    /// Judge a flow that happened, by its number, by the policy in force now.
    #[arg(long, value_name = "ID", conflicts_with_all = ["app", "to", "from", "proto", "uid", "cgroup", "netns"])]
    pub(crate) flow: Option<u64>,
    /// The program: a path, or a name to look for in PATH.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) app: Option<PathBuf>,
    /// From where, if its socket is bound.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) from: Option<std::net::SocketAddr>,
    /// The protocol.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub(crate) proto: Protocol,
    /// As which user: a name or a number; otherwise yours.
    #[arg(long, value_name = "USER")]
    pub(crate) uid: Option<String>,
    /// In which cgroup, below the hierarchy's root; otherwise the root.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// In which network namespace, by its cookie; otherwise the daemon's.
    #[arg(long, value_name = "COOKIE")]
    pub(crate) netns: Option<u64>,
    /// Only this layer, such as auth-connect; otherwise the whole way.
    #[arg(long)]
    pub(crate) layer: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Clone, Copy, ValueEnum)]
#[allow(missing_docs)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

#[derive(Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct Man {
    /// A folder that is there.
    pub(crate) folder: PathBuf,
}
