//! Connections that wait in a listener's queue, or never leave it.

use std::io::{Read, Write};
use std::time::Duration;

use e2e::{Host, Origin, listen_by_hand, netns, wait};
use serde_json::json;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Filter, Service};

/// A host whose closed flows are forgotten soon.
fn short_memory(test: &str) -> (Host, Service) {
    let config = Config {
        grace: Duration::from_millis(1),
        ..Config::default()
    };
    let mut host = Host::with(test, config);
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

#[test]
fn no_record_is_lost_with_a_backlog_of_1() {
    netns::enter();
    let mut host = Host::new("backlog_1");
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 1);
    host.redirect_all(&[&service]);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let flow = sidetrack::query(&stream).expect("every socket answers");
            let to = flow.original_destination().to_string();
            stream.read_exact(&mut [0]).expect("the client speaks");
            stream.write_all(to.as_bytes()).expect("the client reads");
        }
    });
    let told = host
        .client(&["storm", "--threads", "16", "--count", "125", "--speak"])
        .json();
    assert_eq!(told, json!({ "good": 2000, "failures": {} }));
    assert_eq!(host.count(Counter::HandedOver), 2000);
    assert!(netns::counter("ListenOverflows") > 0, "the queue was full");
}

#[test]
fn closed_accept_queue_leaves_no_flow() {
    let (mut host, service) = short_memory("closed_queue");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 64);
    let waiting: Vec<_> = (1..=20)
        .map(|last| host.client(&["connect", &format!("10.0.0.{last}:80")]))
        .collect();
    wait::until("all are in the queue", || {
        host.count(Counter::HandedOver) == 20
    });
    assert_eq!(host.flows(), 20);
    drop(listener); // never accepted
    for client in waiting {
        let told = client.json();
        assert_eq!(told["errno"], libc::ECONNRESET, "{told}");
    }
    assert_drained(&mut host, &service);
}

#[test]
fn client_that_gives_up_while_connecting_leaves_no_flow() {
    let (mut host, service) = short_memory("gives_up");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 0);
    // A backlog of 0 lets one in; those behind it get no answer.
    let mut first = host.client(&["connect", "10.0.0.1:80", "--hold"]);
    wait::until("the queue is full", || host.count(Counter::HandedOver) == 1);
    let pending: Vec<_> = (2..=5)
        .map(|last| host.client(&["connect", &format!("10.0.0.{last}:80")]))
        .collect();
    wait::until("they are connecting", || host.flows() == 5);
    for client in pending {
        client.kill();
    }
    wait::until("only the one in the queue is left", || host.flows() == 1);
    assert!(first.child().try_wait().expect("may be asked").is_none());
    drop(listener);
    assert_drained(&mut host, &service);
}

#[test]
fn client_that_goes_before_it_is_accepted_leaves_no_flow() {
    let (mut host, service) = short_memory("goes_first");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 64);
    for last in 1..=10 {
        let client = host.client(&["connect", &format!("10.0.0.{last}:80")]);
        wait::until("it is in the queue", || {
            host.count(Counter::HandedOver) == last
        });
        client.kill();
    }
    for _ in 0..10 {
        let (stream, _) = listener.accept().expect("it is in the queue");
        let flow = sidetrack::query(&stream).expect("it still answers");
        assert_eq!(flow.original_destination().port(), 80);
    }
    drop(listener);
    assert_drained(&mut host, &service);
}

#[test]
fn proxies_killed_under_load_leave_no_flow_and_no_wrong_answer() {
    let (mut host, service) = short_memory("killed_under_load");
    for _ in 0..10 {
        let before = host.count(Counter::HandedOver);
        let proxy = host.proxy(&service, "answer");
        let storm = host.client(&["storm", "--threads", "20", "--count", "100"]);
        wait::until("it is at work", || {
            host.count(Counter::HandedOver) > before + 200
        });
        proxy.kill();
        assert_none_wrong(&storm.json());
    }
    assert_drained(&mut host, &service);
}

/// Refused and reset they may be, and cut short; not answered for another one.
fn assert_none_wrong(told: &serde_json::Value) {
    for (failure, _) in told["failures"].as_object().expect("an object") {
        let cut_short = failure == "answered \"\"";
        assert!(cut_short || !failure.starts_with("answered"), "{told}");
    }
    assert!(told["good"].as_u64() > Some(100), "{told}");
}

#[test]
fn socket_that_gives_up_by_af_unspec_leaves_no_flow() {
    let (mut host, service) = short_memory("gives_up_unspec");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 0);
    let _first = host.client(&["connect", "10.0.0.1:80"]);
    wait::until("the queue is full", || host.count(Counter::HandedOver) == 1);
    let origin = Origin::start("127.0.0.1:0").address;
    host.set_policy(&[Filter {
        remote: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::redirect_all(service.number)
    }]);
    // Its first connect hangs; it dissolves that, and goes elsewhere with the same socket.
    let mut giving_up = host.client(&["reconnect", "10.0.0.2:80", &origin.to_string(), "--hurry"]);
    let told = giving_up.line();
    assert_eq!(told[0]["errno"], libc::EINPROGRESS, "{told}");
    assert_eq!(told[1]["reply"], "origin", "{told}");
    assert_eq!(told[1]["peer"], origin.to_string());
    wait::until("only the one in the queue is left", || host.flows() == 1);
    drop(listener);
    host.redirect_all(&[&service]);
    assert_drained(&mut host, &service);
}

/// Closed flows are forgotten as new ones come, two by each. The last to come remains.
fn assert_drained(host: &mut Host, service: &Service) {
    let _answering = host.answer(service);
    wait::until("the closed flows are forgotten", || {
        assert_eq!(host.connect("10.9.9.9:80")["reply"], "10.9.9.9:80");
        host.flows() <= 2
    });
}
