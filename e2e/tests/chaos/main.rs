//! Connections and datagrams through a daemon's policy, while proxies and daemon are killed and
//! policies are swapped at random. `make chaos` runs it.
//!
//! Two services inspect everything, in either order. Whatever happens, no exchange may reach its
//! origin uninspected, and none may be inspected twice by one service. Each one that was served has
//! its flow line, or its proxy was killed during it.

mod account;
mod disturbance;
mod policy;
mod uninspected;

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::{AnyAddressOrigin, Client, Daemon, Host, Process, netns, wait};
use tempfile::TempDir;

use account::Account;
use disturbance::Disturbance;
use uninspected::Uninspected;

/// The services, by index.
const SERVICES: [&str; 2] = ["a", "b"];
/// The port of all origins.
const PORT: u16 = 4000;
/// The user of the client: nobody. The proxies and the origin are root's.
const CLIENT_UID: u32 = 65_534;
/// Number of exchanges that begin in each second.
const RATE: u32 = 200;
/// How long it lasts, unless the environment variable SIDETRACK_CHAOS_SECONDS has another number.
const SECONDS: u64 = 180;
/// How long flows may take to end after the last exchange: the kernel's time-out for UDP flows whose
/// proxy was killed, and some more.
const FLOWS_END: Duration = Duration::from_secs(90);

/// Everything that runs.
struct Chaos {
    // Fields are dropped in this order.
    proxies: [Option<Process>; 2],
    daemon: Daemon,
    host: Host,
    folder: TempDir,
}

impl Chaos {
    fn start() -> Self {
        netns::enter();
        netns::ip("route add local 10.0.0.0/8 dev lo");
        netns::ip("-6 route add local fd77::/16 dev lo");
        let host = Host::without_engine("chaos");
        let daemon = Daemon::attached(&host);
        Self {
            proxies: [None, None],
            daemon,
            host,
            folder: TempDir::new().expect("a temporary folder"),
        }
    }

    /// Makes some exchanges without a policy, and checks that they are counted as uninspected.
    fn check_counter(&self, uninspected: &Uninspected) {
        let load = self.start_load(&self.folder.path().join("without a policy"));
        wait::until("packets are counted", || uninspected.packets() > 0);
        let ended = load.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Puts the first policy in force, and starts the proxies.
    fn begin(&mut self) {
        self.apply(0);
        (0..SERVICES.len()).for_each(|service| self.start_proxy(service));
    }

    /// Puts the policy with this number in force.
    fn apply(&self, number: u32) {
        self.daemon.apply(&policy::text(number));
    }

    /// Starts the proxy of a service, and waits until it listens for TCP and UDP.
    fn start_proxy(&mut self, service: usize) {
        let name = SERVICES[service];
        self.proxies[service] = Some(Process::built_in(
            &self.host.service_cgroup,
            &self.daemon.socket(),
            name,
            &self.lines(service),
        ));
        let mut api = self.daemon.api();
        wait::until("the proxy listens", || api.is_listening(name));
    }

    fn kill_proxy(&mut self, service: usize) {
        if let Some(proxy) = self.proxies[service].take() {
            proxy.kill();
        }
    }

    /// The file with the flow lines of a service.
    fn lines(&self, service: usize) -> PathBuf {
        self.folder.path().join(SERVICES[service])
    }

    fn start_load(&self, report: &Path) -> Client {
        self.host.client(&[
            "load",
            &format!("--rate={RATE}"),
            &format!("--port={PORT}"),
            &format!("--uid={CLIENT_UID}"),
            &format!("--report={}", report.display()),
        ])
    }

    /// Waits until the kernel has no flow any more, and ends the proxies, which then write the lines
    /// of UDP flows that are not over yet.
    fn end(&mut self) {
        let deadline = Instant::now() + FLOWS_END;
        let mut api = self.daemon.api();
        while api.table("flows") > 0 {
            let left = api.table("flows");
            assert!(Instant::now() < deadline, "{left} flows are left");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let proxies = self.proxies.iter_mut().filter_map(Option::take);
        proxies.for_each(Process::terminate);
    }
}

/// A number from the environment.
fn number_from(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number")),
    )
}

#[test]
#[ignore = "it takes three minutes: `make chaos` runs it"]
fn nothing_is_uninspected_or_inspected_twice_whatever_is_killed() {
    let seconds = number_from("SIDETRACK_CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = number_from("SIDETRACK_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SIDETRACK_CHAOS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut chaos = Chaos::start();
    let _origin = AnyAddressOrigin::start(PORT).expect("the origin starts");
    let uninspected = Uninspected::count(PORT, CLIENT_UID);
    chaos.check_counter(&uninspected);
    chaos.begin();
    let packets = uninspected.packets();
    chaos.daemon.restart(); // so that it has taken over the kernel's policy, as the last daemon has
    let descriptors = chaos.daemon.descriptors();
    let report = chaos.folder.path().join("exchanges");
    let load = chaos.start_load(&report);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut account = Account::default();
    while Instant::now() < end {
        Disturbance::random(&mut random).happen(&mut chaos, &mut random, &mut account);
    }
    let ended = load.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");

    chaos.end();
    let lost = chaos.daemon.api().counter("lost with proxy");
    account.read(&chaos, &report);
    account.print(lost);
    assert_eq!(uninspected.packets(), packets, "nothing is uninspected");
    account.check(lost);
    assert_eq!(chaos.daemon.descriptors(), descriptors);
    assert!(!chaos.host.root().is_populated(), "no process is left");
}
