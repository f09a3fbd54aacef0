//! Every accepted socket answers with its own destination, whatever befell it on the way (design 7.3).

use std::io::{Read, Write};

use e2e::{Host, Origin, netns};
use serde_json::json;
use sidetrack_engine::counter::Counter;

/// Many at once through a relay and on to one that answers; none lost, none mixed up.
fn storm(test: &str, threads: u32, count: u32, more: &[&str]) {
    let mut host = Host::new(test);
    let (first, second) = (host.service("first"), host.service("second"));
    host.relay_storm(&first);
    host.answer_storm(&second);
    host.redirect_all(&[&first, &second]);
    let numbers = [threads.to_string(), count.to_string()];
    let mut arguments = vec!["storm", "--threads", &numbers[0], "--count", &numbers[1]];
    arguments.extend(more);
    let told = host.client(&arguments).json();
    let all = u64::from(threads * count);
    let counted = [Counter::Redirected, Counter::HandedOver, Counter::FlowsLost]
        .map(|counter| host.count(counter));
    // At once, so that a failure tells where it was: on the way, or at the hand-over.
    assert_eq!(
        (told, counted),
        (
            json!({ "good": all, "failures": {} }),
            [2 * all, 2 * all, 0]
        )
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
fn every_accepted_socket_answers_after_connects_that_do_not_block() {
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
    netns::set("ipv4/tcp_syncookies", "2"); // for every connection, not only under a flood
    storm("storm_cookies", 50, 100, &[]);
    assert!(netns::counter("SyncookiesRecv") >= 10_000);
}

#[test]
fn no_record_is_lost_with_syn_cookies_over_ipv6() {
    netns::enter();
    netns::set("ipv4/tcp_syncookies", "2");
    // All go to one address, and so soon meet ports in TIME_WAIT, which answer without a cookie.
    netns::set("ipv4/tcp_max_tw_buckets", "0");
    storm("storm_cookies_v6", 50, 40, &["--ipv6"]);
    assert!(netns::counter("SyncookiesRecv") >= 4_000);
}

/// The first data travel with the SYN: the accepted socket may exist before the handshake has ended.
fn fast_open(test: &str, options: &[&str], reply: &str) {
    netns::enter();
    netns::set("ipv4/tcp_fastopen", "1027"); // both sides, all listeners
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
        // The first fetches the cookie, the others use it.
        for _ in 0..3 {
            let mut arguments = vec!["connect", to];
            arguments.extend(options);
            let told = host.client(&arguments).json();
            assert_eq!(told["reply"], reply, "{told}");
            assert_eq!(told["peer"], to, "{told}");
            let flows = proxy.flows();
            let last = flows.last().expect("it was accepted");
            assert_eq!(last.original_destination().to_string(), to);
        }
    }
    assert_eq!(netns::counter("TCPFastOpenPassive"), 4, "two of three each");
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
    let mut program = host.client(&["ask", "--bind", "0.0.0.0:20001", "--abort"]);
    for round in 0..300 {
        // One destination twice, and another: the four-tuple comes again, and does not.
        let to = format!("10.1.2.{}:80", round / 2 % 2);
        program.tell(&to);
        let told = program.line();
        assert_eq!(told["reply"], to, "round {round}: {told}");
        assert_eq!(told["local"], "127.0.0.1:20001", "round {round}: {told}");
    }
    assert_eq!(proxy.flows().len(), 300);
}

#[test]
fn reconnected_socket_carries_its_new_destination() {
    let mut host = Host::new("reconnect");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    for pair in [
        ["10.1.2.3:80", "10.4.5.6:81"],
        ["[fd00::1]:80", "[fd00::2]:81"],
    ] {
        let told = host.client(&["reconnect", pair[0], pair[1]]).json();
        let want = json!([
            { "reply": pair[0], "peer": pair[0] },
            { "reply": pair[1], "peer": pair[1] },
        ]);
        assert_eq!(told, want);
    }
}

#[test]
fn socket_reconnected_where_no_filter_matches_tells_its_true_peer() {
    let mut host = Host::new("reconnect_straight");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    let only_ten = sidetrack_engine::Filter {
        remote: Some("10.0.0.0/8".parse().unwrap()),
        ..sidetrack_engine::Filter::redirect_all(service.number)
    };
    host.set_policy(&[only_ten]);
    let origin = Origin::start("127.0.0.1:0").address.to_string();
    let told = host.client(&["reconnect", "10.1.2.3:80", &origin]).json();
    assert_eq!(told[0]["reply"], "10.1.2.3:80");
    assert_eq!(told[1], json!({ "reply": "origin", "peer": origin }));
    // The other way round, and the peer asked for is told again.
    let told = host.client(&["reconnect", &origin, "10.1.2.3:80"]).json();
    assert_eq!(told[0], json!({ "reply": "origin", "peer": origin }));
    assert_eq!(
        told[1],
        json!({ "reply": "10.1.2.3:80", "peer": "10.1.2.3:80" })
    );
}
