//! Every accepted socket answers with its own destination, in whatever way its connection was made
//! (ARCHITECTURE.md, What must always hold, 3).

use std::io::{Read, Write};

use e2e::policy::{prefix, redirect_tcp};
use e2e::{Host, Origin, netns};
use serde_json::json;
use sidetrack_engine::counter::Counter;

/// Many connections at once, through a proxy that relays and then to one that answers. None may be
/// lost, or get the answer of another.
fn storm(test: &str, threads: u32, count: u32, more: &[&str]) {
    let mut host = Host::new(test);
    let (first, second) = (host.service("first"), host.service("second"));
    host.relay_storm(&first);
    host.answer_storm(&second);
    host.redirect_all(&[&first, &second]);
    let numbers = [threads.to_string(), count.to_string()];
    let mut arguments = vec!["storm", "--threads", &numbers[0], "--count", &numbers[1]];
    arguments.extend(more);
    let report = host.client(&arguments).json();
    let all = u64::from(threads * count);
    let counted = [Counter::Redirected, Counter::HandedOver, Counter::FlowsLost]
        .map(|counter| host.count(counter));
    // Everything is compared together, so that a failure shows whether the redirection or the
    // hand-over to the accepted socket is at fault.
    assert_eq!(
        (&report["good"], &report["failures"], counted),
        (&json!(all), &json!({}), [2 * all, 2 * all, 0])
    );
}

#[test]
fn every_accepted_socket_answers_with_its_own_destination_in_a_storm() {
    storm("storm", 200, 1000, &[]);
}

#[test]
fn every_accepted_socket_answers_over_ipv6() {
    storm("storm_v6", 50, 100, &["--ipv6"]);
}

#[test]
fn every_accepted_socket_answers_on_ipv4_mapped_sockets() {
    storm("storm_mapped", 50, 100, &["--mapped"]);
}

#[test]
fn every_accepted_socket_answers_after_nonblocking_connects() {
    storm("storm_nonblocking", 50, 100, &["--nonblocking"]);
    storm(
        "storm_nonblocking_v6",
        50,
        100,
        &["--nonblocking", "--ipv6"],
    );
    storm(
        "storm_nonblocking_mapped",
        50,
        100,
        &["--nonblocking", "--mapped"],
    );
}

#[test]
fn no_record_is_lost_with_syn_cookies() {
    netns::enter();
    netns::set_sysctl("ipv4/tcp_syncookies", "2"); // for every connection, not only if the queue is full
    storm("storm_cookies", 50, 100, &[]);
    assert!(netns::counter("SyncookiesRecv") >= 10_000);
}

#[test]
fn no_record_is_lost_with_syn_cookies_over_ipv6() {
    netns::enter();
    netns::set_sysctl("ipv4/tcp_syncookies", "2");
    // All connections have the same destination address. So they soon reuse ports in TIME_WAIT, for
    // which the kernel sends no cookie.
    netns::set_sysctl("ipv4/tcp_max_tw_buckets", "0");
    storm("storm_cookies_v6", 50, 40, &["--ipv6"]);
    assert!(netns::counter("SyncookiesRecv") >= 4_000);
}

/// With TCP Fast Open the SYN carries data, so the accepted socket may exist before the end of the
/// handshake.
fn fast_open(test: &str, options: &[&str], reply: &str) {
    netns::enter();
    netns::set_sysctl("ipv4/tcp_fastopen", "1027"); // 0x403: clients, servers, and all listeners
    let mut host = Host::new(test);
    let service = host.service("inspect");
    let proxy = host.serve(&service, |mut stream, _| {
        let mut ping = [0; 4];
        stream.read_exact(&mut ping)?;
        stream.write_all(b"origin")?;
        stream.write_all(&ping)
    });
    host.redirect_all(&[&service]);
    for to in ["10.1.2.3:80", "[2001:db8::7]:443"] {
        // The first connection gets the cookie, and the others use it.
        for _ in 0..3 {
            let mut arguments = vec!["connect", to];
            arguments.extend(options);
            let report = host.client(&arguments).json();
            assert_eq!(report["reply"], reply, "{report}");
            assert_eq!(report["peer"], to, "{report}");
            let flows = proxy.flows();
            let last = flows.last().expect("the connection was accepted");
            assert_eq!(last.original_destination().to_string(), to);
        }
    }
    assert_eq!(
        netns::counter("TCPFastOpenPassive"),
        4,
        "two of three connections to each destination"
    );
    assert_eq!(host.count(Counter::HandedOver), 6);
}

#[test]
fn fast_open_by_sendto_answers_with_its_destination() {
    fast_open("fastopen", &["--fastopen", "ping"], "originping");
}

#[test]
fn fast_open_by_deferred_connect_answers_with_its_destination() {
    let options = ["--fastopen-connect", "--send", "ping"];
    fast_open("fastopen_connect", &options, "originping");
}

#[test]
fn source_port_reused_at_once_brings_no_stale_record() {
    netns::enter();
    let mut host = Host::new("port_reuse");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    let mut program = host.client(&["connect-each", "--bind", "0.0.0.0:20001", "--abort"]);
    for round in 0..300 {
        // Each destination twice, then the other one: a four-tuple is reused at once in every
        // second round.
        let to = format!("10.1.2.{}:80", round / 2 % 2);
        program.send_line(&to);
        let report = program.json_line();
        assert_eq!(report["reply"], to, "round {round}: {report}");
        // The proxy goes on nowhere, so what the origin sees does not become known.
        assert_eq!(report["local"], "0.0.0.0:20001", "round {round}: {report}");
    }
    assert_eq!(proxy.flows().len(), 300);
}

#[test]
fn reconnected_socket_carries_its_new_destination() {
    let mut host = Host::new("reconnect");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    for [first, second] in [
        ["10.1.2.3:80", "10.4.5.6:81"],
        ["[fd00::1]:80", "[fd00::2]:81"],
    ] {
        let report = host.client(&["reconnect", first, second]).json();
        let expected = json!([
            { "reply": first, "peer": first },
            { "reply": second, "peer": second },
        ]);
        assert_eq!(report, expected);
    }
}

#[test]
fn socket_reconnected_without_a_redirect_has_its_true_peer() {
    let mut host = Host::new("reconnect_straight");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy([redirect_tcp(&service).remote(prefix("10.0.0.0/8"))]);
    let origin = Origin::start("127.0.0.1:0").address.to_string();
    let report = host.client(&["reconnect", "10.1.2.3:80", &origin]).json();
    assert_eq!(report[0]["reply"], "10.1.2.3:80");
    assert_eq!(report[1], json!({ "reply": "origin", "peer": origin }));
    // In the reverse order, the second peer name is the original destination.
    let report = host.client(&["reconnect", &origin, "10.1.2.3:80"]).json();
    assert_eq!(report[0], json!({ "reply": "origin", "peer": origin }));
    assert_eq!(
        report[1],
        json!({ "reply": "10.1.2.3:80", "peer": "10.1.2.3:80" })
    );
}
