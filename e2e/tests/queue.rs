//! Connections that wait in a listener's accept queue, and some that are never accepted.

use std::io::{Read, Write};
use std::time::Duration;

use e2e::policy::{prefix, redirect_tcp};
use e2e::{Host, Origin, listen_marked, netns, wait};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, RegisteredService};

/// A host with a grace period of a millisecond, so that the slots of closed flows are soon reused.
fn with_short_grace(test: &str) -> (Host, RegisteredService) {
    let config = Config {
        grace: Duration::from_millis(1),
        ..Config::default()
    };
    let mut host = Host::with_config(test, config);
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

#[test]
fn no_record_is_lost_with_a_backlog_of_1() {
    netns::enter();
    let mut host = Host::new("backlog_1");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 1);
    host.redirect_all(&[&service]);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let flow = sidetrack::query(&stream).expect("every socket answers");
            let to = flow.original_destination().to_string();
            stream
                .read_exact(&mut [0])
                .expect("the client sends a byte");
            stream.write_all(to.as_bytes()).expect("the client reads");
        }
    });
    let report = host
        .client(&["storm", "--threads", "16", "--count", "125", "--send-first"])
        .json();
    assert_eq!(report["good"], 2000, "{report}");
    assert_eq!(host.count(Counter::HandedOver), 2000);
    assert!(netns::counter("ListenOverflows") > 0, "the queue was full");
}

#[test]
fn closed_accept_queue_leaves_no_flow() {
    let (mut host, service) = with_short_grace("closed_queue");
    let listener = listen_marked(&service, "0.0.0.0:0", 64);
    let waiting: Vec<_> = (1..=20)
        .map(|last| host.client(&["connect", &format!("10.0.0.{last}:80")]))
        .collect();
    wait::until("all connections are in the queue", || {
        host.count(Counter::HandedOver) == 20
    });
    assert_eq!(host.flow_count(), 20);
    drop(listener); // none of them was accepted
    for client in waiting {
        let report = client.json();
        assert_eq!(report["errno"], libc::ECONNRESET, "{report}");
    }
    assert_drained(&mut host, &service);
}

#[test]
fn client_killed_while_connecting_leaves_no_flow() {
    let (mut host, service) = with_short_grace("killed_connecting");
    let listener = listen_marked(&service, "0.0.0.0:0", 0);
    // With a backlog of 0 one connection fits into the queue. The SYNs of the others are not answered.
    let mut first = host.client(&["connect", "10.0.0.1:80", "--hold"]);
    wait::until("the queue is full", || host.count(Counter::HandedOver) == 1);
    let pending: Vec<_> = (2..=5)
        .map(|last| host.client(&["connect", &format!("10.0.0.{last}:80")]))
        .collect();
    wait::until("the others are connecting", || host.flow_count() == 5);
    for client in pending {
        client.kill();
    }
    wait::until("only the flow in the queue is left", || {
        host.flow_count() == 1
    });
    let ended = first
        .child()
        .try_wait()
        .expect("the client is a child process");
    assert!(ended.is_none());
    drop(listener);
    assert_drained(&mut host, &service);
}

#[test]
fn client_killed_before_accept_leaves_no_flow() {
    let (mut host, service) = with_short_grace("killed_in_queue");
    let listener = listen_marked(&service, "0.0.0.0:0", 64);
    for last in 1..=10 {
        let client = host.client(&["connect", &format!("10.0.0.{last}:80")]);
        wait::until("the connection is in the queue", || {
            host.count(Counter::HandedOver) == last
        });
        client.kill();
    }
    for _ in 0..10 {
        let (stream, _) = listener.accept().expect("the connection is in the queue");
        let flow = sidetrack::query(&stream).expect("the socket still answers");
        assert_eq!(flow.original_destination().port(), 80);
    }
    drop(listener);
    assert_drained(&mut host, &service);
}

#[test]
fn proxies_killed_under_load_leave_no_flow_and_no_wrong_answer() {
    let (mut host, service) = with_short_grace("killed_under_load");
    for _ in 0..10 {
        let before = host.count(Counter::HandedOver);
        let proxy = host.proxy(&service, "answer");
        let storm = host.client(&["storm", "--threads", "20", "--count", "100"]);
        wait::until("the proxy has accepted connections", || {
            host.count(Counter::HandedOver) > before + 200
        });
        proxy.kill();
        assert_no_wrong_answer(&storm.json());
    }
    assert_drained(&mut host, &service);
}

/// Connections may be refused, reset, or closed without an answer. None may get the answer of another.
fn assert_no_wrong_answer(report: &serde_json::Value) {
    for (failure, _) in report["failures"].as_object().expect("an object") {
        let without_answer = failure == "answered \"\"";
        assert!(
            without_answer || !failure.starts_with("answered"),
            "{report}"
        );
    }
    assert!(report["good"].as_u64() > Some(100), "{report}");
}

#[test]
fn connect_abandoned_with_af_unspec_leaves_no_flow() {
    let (mut host, service) = with_short_grace("abandoned_connect");
    let listener = listen_marked(&service, "0.0.0.0:0", 0);
    let _first = host.client(&["connect", "10.0.0.1:80"]);
    wait::until("the queue is full", || host.count(Counter::HandedOver) == 1);
    let origin = Origin::start("127.0.0.1:0").address;
    host.set_policy([redirect_tcp(&service).remote(prefix("10.0.0.0/8"))]);
    // The client does not wait for its first connect. It disconnects the socket, and connects it to
    // the origin.
    let arguments = ["reconnect", "10.0.0.2:80", &origin.to_string(), "--no-wait"];
    let mut client = host.client(&arguments);
    let report = client.json_line();
    assert_eq!(report[0]["errno"], libc::EINPROGRESS, "{report}");
    assert_eq!(report[1]["reply"], "origin", "{report}");
    assert_eq!(report[1]["peer"], origin.to_string());
    wait::until("only the flow in the queue is left", || {
        host.flow_count() == 1
    });
    drop(listener);
    host.redirect_all(&[&service]);
    assert_drained(&mut host, &service);
}

/// Makes connections until at most two flows are left: each new flow frees the slots of two closed
/// ones, and the newest flow remains.
fn assert_drained(host: &mut Host, service: &RegisteredService) {
    let _answering = host.answer(service);
    wait::until("the closed flows are gone", || {
        assert_eq!(host.connect("10.9.9.9:80")["reply"], "10.9.9.9:80");
        host.flow_count() <= 2
    });
}
