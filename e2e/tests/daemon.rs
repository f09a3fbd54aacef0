//! The daemon and its data path: what is pinned goes on without it (design 7.8).

use std::time::{Duration, Instant};

use e2e::{Client, Daemon, Host, Process};
use serde_json::{Value, json};

/// How often the daemon is killed; with SIDETRACK_SOAK=1: [`KILLS_OF_A_SOAK`].
const KILLS: u32 = 25;
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

fn apply(daemon: &Daemon, policy: &str) {
    let applied = daemon.sidetrack_fed(&["apply", "-"], policy);
    assert_eq!(applied.code, Some(0), "{applied:?}");
}

fn state(daemon: &Daemon) -> Value {
    let told = daemon.sidetrack(&["state", "--json"]);
    serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error} in {told:?}"))
}

/// A storm of connects, each to an address of its own that nobody has but the proxy.
struct Storm {
    client: Client,
    started: Instant,
}

impl Storm {
    fn begin(host: &Host) -> Self {
        let arguments = [
            "storm",
            "--threads",
            "2",
            "--count",
            "100000",
            "--until-told",
        ];
        Self {
            client: host.client(&arguments),
            started: Instant::now(),
        }
    }

    /// Ends it: all must have been answered, and none can have been missing for long.
    fn end(self) {
        let told = self.client.json();
        println!("{told} in {:?}", self.started.elapsed());
        assert_eq!(told["failures"], json!({}), "{told}");
        assert!(told["good"].as_f64() > Some(100.0 * self.started.elapsed().as_secs_f64()));
    }
}

fn begin(test: &str) -> (Host, Daemon, Process) {
    let host = Host::bare(test);
    let daemon = Daemon::attached(&host);
    apply(&daemon, POLICY);
    let proxy = Process::registered(&host.service, &daemon, "inspect", "answer");
    (host, daemon, proxy)
}

/// An upgrade is one too: the new daemon's programs take the places of the old one's.
#[test]
fn killing_or_upgrading_the_daemon_disturbs_no_connection() {
    let (host, mut daemon, _proxy) = begin("daemon_killed");
    let before = state(&daemon);
    let storm = Storm::begin(&host);
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
    assert_eq!(after["notes"], json!([]), "nothing had to be mended");
}

#[test]
fn costs_tell_what_each_hook_takes() {
    let (host, daemon, _proxy) = begin("daemon_costs");
    let storm = Storm::begin(&host);
    let told = daemon.sidetrack(&["state", "--json", "--costs=1"]);
    storm.end();
    let told: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"));
    let costs = told["costs"].as_array().expect("a list");
    for hook in ["connect4", "sockops", "getsockopt", "service_release"] {
        let cost = costs.iter().find(|cost| cost["hook"] == hook);
        let cost = cost.unwrap_or_else(|| panic!("no {hook} in {costs:?}"));
        assert!(cost["runs"].as_u64() > Some(10), "{cost}");
        let each = cost["ns_per_run"].as_u64();
        assert!(each > Some(0) && each < Some(1_000_000), "{cost}");
    }
    let time = |cost: &Value| cost["time_ns"].as_u64();
    assert!(costs.is_sorted_by(|a, b| time(a) >= time(b)), "{costs:?}");
}

/// The later, the more of the data path is a new daemon's, and the rest is its predecessor's.
#[test]
fn killing_the_daemon_while_it_starts_disturbs_no_connection() {
    let (host, mut daemon, _proxy) = begin("daemon_killed_early");
    let storm = Storm::begin(&host);
    let start = daemon.restart();
    for hundredths in [10, 50, 80, 90, 95, 99] {
        daemon.restart_and_kill(start * hundredths / 100);
        assert_eq!(host.connect("10.255.0.1:80")["reply"], "10.255.0.1:80");
    }
    daemon.restart();
    storm.end();
    assert_eq!(state(&daemon)["notes"], json!([]));
}
