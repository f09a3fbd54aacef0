//! Proxies that are killed while they hold connects.

use std::time::{Duration, Instant};

use e2e::{Host, PendedDescriptors, Process, netns, wait};
use sidetrack_engine::RegisteredService;

use crate::numbers::{Load, NumberOrigin};
use crate::{is_full, start};

/// With 2 retries a connect of the kernel's own fails after 1 + 2 + 4 s.
const SYN_RETRIES: &str = "2";
/// The client's own time-out, and a second in which a busy host does not run it.
const LONGEST: Duration = Duration::from_secs(8);

/// Two services in a chain, with a proxy each as a separate process.
struct Killable {
    services: [(RegisteredService, PendedDescriptors); 2],
    proxies: [Option<Process>; 2],
}

impl Killable {
    fn start(host: &mut Host) -> Self {
        let services = ["a", "b"].map(|name| host.pended_service_for_processes(name));
        let mut killable = Self {
            services,
            proxies: [None, None],
        };
        killable.restart(host, 0);
        killable.restart(host, 1);
        host.redirect_all(&[&killable.services[0].0, &killable.services[1].0]);
        killable
    }

    /// Kills the proxy, if it runs, and starts it again.
    fn restart(&mut self, host: &Host, index: usize) {
        if let Some(proxy) = self.proxies[index].take() {
            proxy.kill();
        }
        let (service, descriptors) = &self.services[index];
        self.proxies[index] = Some(host.pended_proxy(service, descriptors));
    }
}

#[test]
fn storm_while_proxies_are_killed_at_random_waits_for_nobody() {
    let duration = match is_full() {
        true => Duration::from_secs(60),
        false => Duration::from_secs(5),
    };
    let mut host = start("stress_killed");
    netns::set_sysctl("ipv4/tcp_syn_retries", SYN_RETRIES);
    let origin = NumberOrigin::start();
    let mut killable = Killable::start(&mut host);
    let load = Load::of(16, 1000).with(&["--until-stdin-ends"]);
    let client = host.client(&load.arguments());
    let end = Instant::now() + duration;
    let mut kills = 0;
    while Instant::now() < end {
        let before = origin.answered();
        // It is killed while it works: after some connections, or when none gets through.
        let some = before + fastrand::u64(1..200);
        let impatient = Instant::now() + Duration::from_secs(2);
        wait::until("connections get through", || {
            origin.answered() >= some || Instant::now() > impatient
        });
        killable.restart(&host, fastrand::usize(0..2));
        kills += 1;
    }
    let report = client.json();
    let good = report["good"].as_u64().expect("a number");
    assert!(good > 0 && kills > 0, "{kills} kills: {report}");
    let longest = Duration::from_millis(report["longest_ms"].as_u64().expect("a number"));
    assert!(longest < LONGEST, "{kills} kills: {report}");
    origin.assert_not_mixed();
    assert!(origin.answered() >= good, "{report}");

    // Afterwards all is as before.
    let load = Load::of(16, 20);
    let report = host.client(&load.arguments()).json();
    assert_eq!(report["good"], load.total(), "{report}");
    wait::until("no flow is left", || host.flow_count() == 0);
}
