//! The daemon and its pinned data path, which works without the daemon (ARCHITECTURE.md,
//! What must always hold, 8).

use std::time::{Duration, Instant};

use e2e::{Client, Daemon, Host, Process};
use serde_json::{Value, json};

/// How often the daemon is killed.
const KILLS: u32 = 25;
/// How often the daemon is killed if the environment variable SIDETRACK_SOAK is set.
const KILLS_OF_A_SOAK: u32 = 200;

const POLICY: &str = r#"
defaults = { lifetime = "persistent" }
service = [{ name = "inspect" }]

[[filter]]
name = "all"
layer = "connect-redirect"
remote_port = 80
action = { redirect = "inspect" }
"#;

fn kills() -> u32 {
    match std::env::var_os("SIDETRACK_SOAK") {
        Some(_) => KILLS_OF_A_SOAK,
        None => KILLS,
    }
}

fn state(daemon: &Daemon) -> Value {
    let outcome = daemon.sidetrack(&["state", "--json"]);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error} in {outcome:?}"))
}

/// A client that makes many connections. Each has another destination, which only the proxy answers.
struct Storm {
    client: Client,
    started: Instant,
}

impl Storm {
    fn start(host: &Host) -> Self {
        let arguments = [
            "storm",
            "--threads",
            "2",
            "--count",
            "100000",
            "--until-stdin-ends",
        ];
        Self {
            client: host.client(&arguments),
            started: Instant::now(),
        }
    }

    /// Ends the client. All connections must have been answered, at a rate that rules out a long pause.
    fn end(self) {
        let report = self.client.json();
        println!("{report} in {:?}", self.started.elapsed());
        assert_eq!(report["failures"], json!({}), "{report}");
        assert!(report["good"].as_f64() > Some(100.0 * self.started.elapsed().as_secs_f64()));
    }
}

/// A daemon with a policy that redirects port 80, and its proxy.
fn daemon_with_proxy(test: &str) -> (Host, Daemon, Process) {
    let host = Host::without_engine(test);
    let daemon = Daemon::attached(&host);
    daemon.apply(POLICY);
    let proxy = Process::registered(&host.service_cgroup, &daemon.socket(), "inspect", "answer");
    (host, daemon, proxy)
}

/// An upgrade does the same: the new daemon's programs replace those of the old one.
#[test]
fn killing_or_upgrading_the_daemon_disturbs_no_connection() {
    let (host, mut daemon, _proxy) = daemon_with_proxy("daemon_killed");
    let before = state(&daemon);
    let storm = Storm::start(&host);
    let mut slowest = Duration::ZERO;
    for _ in 0..kills() {
        slowest = slowest.max(daemon.restart());
        assert_eq!(host.connect("10.255.0.1:80")["reply"], "10.255.0.1:80");
    }
    println!("the slowest start took {slowest:?}");
    storm.end();
    let after = state(&daemon);
    for same in [
        "generation",
        "filters",
        "services",
        "cgroups",
        "policy_bytes",
    ] {
        assert_eq!(before[same], after[same], "{same}");
    }
    assert_eq!(after["notes"], json!([]), "nothing had to be repaired");
}

#[test]
fn costs_report_the_time_of_each_hook() {
    let (host, daemon, _proxy) = daemon_with_proxy("daemon_costs");
    let storm = Storm::start(&host);
    let outcome = daemon.sidetrack(&["state", "--json", "--costs=1"]);
    storm.end();
    let state: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}"));
    let costs = state["costs"].as_array().expect("the costs are an array");
    for hook in ["connect4", "sockops", "getsockopt", "service_release"] {
        let cost = costs.iter().find(|cost| cost["hook"] == hook);
        let cost = cost.unwrap_or_else(|| panic!("there is no {hook} in {costs:?}"));
        assert!(cost["runs"].as_u64() > Some(10), "{cost}");
        let each = cost["ns_per_run"].as_u64();
        assert!(each > Some(0) && each < Some(1_000_000), "{cost}");
    }
    let time = |cost: &Value| cost["time_ns"].as_u64();
    assert!(costs.is_sorted_by(|a, b| time(a) >= time(b)), "{costs:?}");
}

/// The later the daemon is killed, the more of the data path is already its own. The rest is its
/// predecessor's.
#[test]
fn killing_the_daemon_while_it_starts_disturbs_no_connection() {
    let (host, mut daemon, _proxy) = daemon_with_proxy("daemon_killed_early");
    let storm = Storm::start(&host);
    let start = daemon.restart();
    for hundredths in [10, 50, 80, 90, 95, 99] {
        daemon.restart_and_kill(start * hundredths / 100);
        assert_eq!(host.connect("10.255.0.1:80")["reply"], "10.255.0.1:80");
    }
    daemon.restart();
    storm.end();
    assert_eq!(state(&daemon)["notes"], json!([]));
}
