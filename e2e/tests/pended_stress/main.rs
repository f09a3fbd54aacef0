//! Many pended connects at once through two services, under conditions that are bad for them: none may
//! be lost, mixed, or passed twice.
//!
//! `make pended-stress` makes many more than `make test`.

mod attack;
mod killed;
mod numbers;
mod packet;

use std::env;

use e2e::{Host, netns, wait};
use sidetrack_engine::counter::Counter;

use numbers::{Load, Services};
use sidetrack::Listener;

/// Whether the environment asks for the large numbers.
fn is_full() -> bool {
    env::var_os("SIDETRACK_STRESS").is_some()
}

/// A new network namespace in which all addresses of 10.0.0.0/8 and fd00::/8 are local, with a host.
fn start(test: &str) -> Host {
    netns::enter();
    netns::ip("route add local 10.0.0.0/8 dev lo");
    netns::ip("-6 route add local fd00::/8 dev lo");
    Host::new(test)
}

/// The number of connections without further conditions.
fn load() -> Load {
    match is_full() {
        true => Load::of(200, 1000),
        false => Load::of(50, 100),
    }
}

/// Makes the connections, and checks that each has passed both services and reached the origin once.
fn assert_each_passes_once(test: &str, load: &Load, prepare: impl FnOnce()) {
    let mut host = start(test);
    let services = Services::start(&mut host);
    prepare();
    let report = host.client(&load.arguments()).json();
    assert_eq!(report["good"], load.total(), "{report}");
    services.assert_each_once(load);
    assert_eq!(host.count(Counter::SenderRefused), 0);
    wait::until("no flow is left", || host.flow_count() == 0);
}

#[test]
fn storm_of_connects_passes_both_services_once() {
    assert_each_passes_once("stress", &load(), || {});
}

#[test]
fn storm_of_nonblocking_connects_over_ipv6_passes_both_services_once() {
    let load = load().with(&["--ipv6", "--nonblocking"]);
    assert_each_passes_once("stress_ipv6", &load, || {});
}

#[test]
fn storm_of_ipv4_mapped_connects_passes_both_services_once() {
    let load = load().with(&["--mapped"]);
    assert_each_passes_once("stress_mapped", &load, || {});
}

/// A proxy that completes many connects before it accepts one, with a queue for one connection.
fn assert_a_full_queue_loses_none(test: &str, syn_cookies: &str) {
    let load = match is_full() {
        // With more clients at once, some would wait for the fifth SYN, and longer than they want.
        true => Load::of(6, 30),
        false => Load::of(6, 5),
    };
    let mut host = start(test);
    netns::set_sysctl("ipv4/tcp_syncookies", syn_cookies);
    let (service, sdk) = host.pended_service("pended");
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    for socket in listener.sockets() {
        rustix::net::listen(socket, 1).expect("the socket listens already");
    }
    host.redirect_all(&[&service]);
    std::thread::spawn(move || numbers::answer_in_batches(&listener));
    let report = host.client(&load.arguments()).json();
    assert_eq!(report["good"], load.total(), "{report}");
    assert!(
        netns::counter("ListenOverflows") > 0,
        "the queue was never full"
    );
    wait::until("no flow is left", || host.flow_count() == 0);
}

#[test]
fn storm_with_a_backlog_of_1_loses_none() {
    assert_a_full_queue_loses_none("stress_backlog", "0");
}

#[test]
fn storm_with_a_backlog_of_1_and_syn_cookies_loses_none() {
    assert_a_full_queue_loses_none("stress_backlog_1", "1");
}

#[test]
fn storm_with_syn_cookies_always_passes_both_services_once() {
    assert_each_passes_once("stress_cookies_2", &load(), || {
        netns::set_sysctl("ipv4/tcp_syncookies", "2");
    });
    assert!(netns::counter("SyncookiesRecv") >= load().total().into());
}

#[test]
fn storm_from_explicit_source_ports_passes_both_services_once() {
    let load = load().with(&["--source-port", "20000"]);
    assert_each_passes_once("stress_explicit", &load, || {});
}

#[test]
fn storm_from_few_source_ports_passes_both_services_once() {
    assert_each_passes_once("stress_ports", &load(), || {
        netns::set_sysctl("ipv4/ip_local_port_range", "40000 40999");
    });
}

#[test]
fn a_full_ring_buffer_loses_no_syn() {
    // One ring buffer has room for about 11,000 notices.
    let count = "12500";
    let mut host = start("stress_ring");
    let (service, sdk) = host.pended_service("pended");
    let listener = Listener::bind(&sdk).expect("the listener is marked");
    host.redirect_all(&[&service]);
    let client = host.client(&["many", "--count", count]);
    wait::until("notices are lost", || host.count(Counter::NoticesLost) > 0);
    std::thread::spawn(move || numbers::answer_each(&listener));
    let report = client.json();
    assert_eq!(report["good"].to_string(), count, "{report}");
}
