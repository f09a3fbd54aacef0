//! Absent services: after a proxy has ended, the filter's `on_absent` applies from the next connect on
//! (ARCHITECTURE.md, What must always hold, 6).

use std::net::{TcpListener, TcpStream};

use e2e::policy::redirect_tcp;
use e2e::sys::get_option;
use e2e::{Host, Origin, Process, listen_marked, listen_shared, listen_unmarked, wait};
use sidetrack_abi::kernel::{INFO, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{Absent, RegisteredService};

fn policy(host: &mut Host, service: &RegisteredService, on_absent: Absent) {
    host.set_policy([redirect_tcp(service).on_absent(on_absent)]);
}

/// A host with one service whose proxy is a separate process that relays.
fn with_proxy(test: &str, on_absent: Absent) -> (Host, RegisteredService, Process) {
    let mut host = Host::new(test);
    let service = host.service("inspect");
    let proxy = host.proxy(&service, "relay");
    policy(&mut host, &service, on_absent);
    (host, service, proxy)
}

fn errno_of_info(stream: &TcpStream) -> i32 {
    get_option(stream, SOL_SIDETRACK, INFO, 4096).errno
}

#[test]
fn connect_after_the_proxy_was_killed_is_refused_and_reported() {
    let origins = ["127.0.0.1:0", "[::1]:0"].map(Origin::start);
    let (mut host, service, proxy) = with_proxy("killed_block", Absent::Block);
    for origin in &origins {
        let report = host.connect_and_send(&origin.address.to_string(), "x");
        assert_eq!(report["reply"], "originx", "{report}");
    }
    proxy.kill();
    for origin in &origins {
        let to = origin.address.to_string();
        let report = host.connect_and_send(&to, "x");
        assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
        let event = host.await_event(EventKind::AbsentBlocked, &to);
        assert_eq!(event.service, service.number);
        assert_eq!(event.comm, "client");
        assert_eq!(origin.accepted(), 1);
    }
    assert_eq!(host.count(Counter::AbsentBlocked), 2);
}

#[test]
fn connect_after_the_proxy_was_killed_goes_straight_with_on_absent_permit() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let (mut host, service, proxy) = with_proxy("killed_permit", Absent::Permit);
    proxy.kill();
    let report = host.connect_and_send(&to, "x");
    assert_eq!(report["reply"], "originx", "{report}");
    let event = host.await_event(EventKind::AbsentPermitted, &to);
    assert_eq!(event.service, service.number);
    assert_eq!(host.count(Counter::AbsentPermitted), 1);
    assert_eq!(host.count(Counter::Redirected), 0);
}

/// Connections that were open when their proxy was killed are counted. Those that it had closed are not.
#[test]
fn connections_that_are_lost_with_their_proxy_are_counted() {
    let (host, _service, proxy) = with_proxy("killed_open", Absent::Block);
    let mut origins = ["127.0.0.1:0", "[::1]:0"].map(Origin::start);
    for origin in &mut origins {
        let to = origin.address.to_string();
        assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
    }
    wait::until("the closed connections are over", || host.flow_count() == 0);
    let mut open: Vec<_> = origins
        .iter()
        .map(|origin| {
            let to = origin.address.to_string();
            host.client(&["connect", &to, "--send", "x", "--hold"])
        })
        .collect();
    for client in &mut open {
        assert_eq!(client.json_line()["reply"], "originx");
    }
    assert_eq!(host.count(Counter::LostWithProxy), 0);
    proxy.kill();
    assert_eq!(host.count(Counter::LostWithProxy), 2);
}

#[test]
fn another_process_at_the_port_of_a_killed_proxy_gets_no_connection() {
    let (host, _, proxy) = with_proxy("grabbed", Absent::Block);
    let port = proxy.addresses[0].port();
    proxy.kill();
    let other = listen_unmarked(&format!("0.0.0.0:{port}"), 16);
    let report = host.connect("10.1.2.3:80");
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    other.set_nonblocking(true).unwrap();
    let error = other.accept().expect_err("no connection arrived here");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn pending_connection_accepted_by_another_process_has_no_flow() {
    for (test, address) in with_each_listener(["grabbed_pending", "grabbed_pending_any"]) {
        let (host, service) = with_full_queue(test);
        let other = replace_listener(&host, listen_marked(&service, address, 0));
        let (stream, _) = other.accept().expect("the client sends its SYN again");
        assert_eq!(errno_of_info(&stream), libc::ENODATA, "{address}");
    }
}

#[test]
fn pending_connection_accepted_by_another_service_has_no_flow() {
    for (test, address) in with_each_listener(["grabbed_by_service", "grabbed_by_service_any"]) {
        let (mut host, service) = with_full_queue(test);
        let other_service = host.service("other");
        let other = replace_listener(&host, listen_marked(&service, address, 0));
        assert_eq!(e2e::mark(&other, &other_service), 0);
        let (stream, _) = other.accept().expect("the client sends its SYN again");
        assert_eq!(errno_of_info(&stream), libc::ENODATA, "{address}");
    }
}

/// Each test with a listener at one address, and with one whose connections have their slots'
/// addresses.
fn with_each_listener(tests: [&str; 2]) -> impl Iterator<Item = (&str, &str)> {
    tests.into_iter().zip(["127.0.0.1:0", "0.0.0.0:0"])
}

#[test]
fn listener_that_shares_a_services_port_gets_no_flows() {
    let mut host = Host::new("port_of_two");
    let (service, other) = (host.service("inspect"), host.service("other"));
    let first = listen_shared(([0, 0, 0, 0], 0).into());
    assert_eq!(e2e::mark(&first, &service), 0);
    let second = listen_shared(first.local_addr().unwrap());
    assert_eq!(e2e::mark(&second, &other), libc::EADDRINUSE);
    host.redirect_all(&[&service]);
    let mut unmarked = 0;
    for listener in [&first, &second] {
        listener.set_nonblocking(true).unwrap();
    }
    // The kernel chooses between the two listeners by a hash.
    while unmarked == 0 {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        let mut arrived = None;
        wait::until("a connection arrives", || {
            let mut listeners = [&first, &second].into_iter().enumerate();
            arrived = listeners
                .find_map(|(index, listener)| Some((index == 1, listener.accept().ok()?.0)));
            arrived.is_some()
        });
        let (is_unmarked, stream) = arrived.expect("a connection has arrived");
        unmarked += usize::from(is_unmarked);
        let expected = if is_unmarked { libc::ENODATA } else { 0 };
        assert_eq!(errno_of_info(&stream), expected);
        drop(stream);
        client.wait();
    }
}

fn with_full_queue(test: &str) -> (Host, RegisteredService) {
    let mut host = Host::new(test);
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

/// Fills the listener's accept queue, lets one more client send its SYN, and replaces the listener by
/// another, which is not marked. Returns that one.
fn replace_listener(host: &Host, listener: TcpListener) -> TcpListener {
    let address = listener.local_addr().unwrap().to_string();
    let (before, flows) = (host.count(Counter::HandedOver), host.flow_count());
    let mut queued = host.client(&["connect", "10.1.2.3:80"]);
    wait::until("the queue is full", || {
        host.count(Counter::HandedOver) == before + 1
    });
    let mut pending = host.client(&["connect", "10.4.5.6:80"]);
    wait::until("another client is connecting", || {
        host.flow_count() == flows + 2
    });
    drop(listener);
    let other = listen_unmarked(&address, 16);
    assert!(
        pending.child().try_wait().unwrap().is_none(),
        "the client is still connecting"
    );
    queued.child().wait().expect("the queued client has ended");
    other
}

#[test]
fn restarted_proxy_is_used_again() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let (mut host, service, mut proxy) = with_proxy("comes_back", Absent::Block);
    for _ in 0..5 {
        assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
        proxy.kill();
        assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (0, 0));
        assert_eq!(host.connect(&to)["errno"], libc::ECONNREFUSED);
        proxy = host.proxy(&service, "relay");
    }
    assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
}

#[test]
fn service_is_absent_once_the_last_descriptor_of_its_listener_is_closed() {
    let mut host = Host::new("closed_listener");
    let service = host.service("inspect");
    let first = listen_marked(&service, "0.0.0.0:0", 16);
    // Two descriptors of one socket are one listener, which is open until both are closed.
    let second = first.try_clone().unwrap();
    policy(&mut host, &service, Absent::Block);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
    drop(first);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
    let client = host.client(&["connect", "10.1.2.3:80"]);
    drop(second.accept().expect("the listener is still open"));
    assert_eq!(client.json()["ok"], true);
    drop(second);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (0, 0));
    assert_eq!(host.connect("10.1.2.3:80")["errno"], libc::ECONNREFUSED);
}

#[test]
fn listeners_that_share_a_port_are_counted_separately() {
    let mut host = Host::new("shared_port");
    let service = host.service("inspect");
    let first = listen_shared(([0, 0, 0, 0], 0).into());
    let second = listen_shared(first.local_addr().unwrap());
    for listener in [&first, &second] {
        assert_eq!(e2e::mark(listener, &service), 0);
    }
    policy(&mut host, &service, Absent::Block);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (2, 0));
    drop(first);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
    let client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = second
        .accept()
        .expect("the other listener gets the connection");
    assert_eq!(errno_of_info(&stream), 0);
    drop(stream);
    assert_eq!(client.json()["ok"], true);
}

#[test]
fn closing_accepted_sockets_keeps_the_listener_counted() {
    let (mut host, service) = with_full_queue("accepted_close");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    for _ in 0..5 {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        drop(listener.accept().expect("the client connects"));
        client.wait();
        assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
    }
}

#[test]
fn service_without_a_listener_of_the_connections_family_is_absent() {
    let mut host = Host::new("one_family");
    let service = host.service("inspect");
    let _listener = listen_marked(&service, "0.0.0.0:0", 16);
    policy(&mut host, &service, Absent::Block);
    let report = host.connect("[fd00::1]:80");
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    host.await_event(EventKind::AbsentBlocked, "[fd00::1]:80");
}
