//! A proxy that is gone: the filter's `on_absent` holds from the next connect on (design 7.6).

use std::net::{TcpListener, TcpStream};

use e2e::sys::get_option;
use e2e::{Host, Origin, Process, listen_by_hand, listen_shared, listen_unmarked, wait};
use sidetrack_abi::kernel::{INFO, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{Absent, Filter, Service};

fn policy(host: &mut Host, service: &Service, on_absent: Absent) {
    host.set_policy(&[Filter {
        on_absent,
        ..Filter::redirect_all(service.number)
    }]);
}

/// A host with one service, whose proxy is a process that relays.
fn with_proxy(test: &str, on_absent: Absent) -> (Host, Service, Process) {
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
fn killed_proxy_refuses_the_next_connect_and_is_reported() {
    let origins = ["127.0.0.1:0", "[::1]:0"].map(Origin::start);
    let (mut host, service, proxy) = with_proxy("killed_block", Absent::Block);
    for origin in &origins {
        let told = host.connect_and_send(&origin.address.to_string(), "x");
        assert_eq!(told["reply"], "originx", "{told}");
    }
    proxy.kill();
    for origin in &origins {
        let to = origin.address.to_string();
        let told = host.connect_and_send(&to, "x");
        assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
        let event = host.await_event(EventKind::AbsentBlocked, &to);
        assert_eq!(event.service, service.number);
        assert_eq!(event.comm, "client");
        assert_eq!(origin.accepted(), 1);
    }
    assert_eq!(host.count(Counter::AbsentBlocked), 2);
}

#[test]
fn killed_proxy_lets_the_next_connect_go_straight_on_if_permitted() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let (mut host, service, proxy) = with_proxy("killed_permit", Absent::Permit);
    proxy.kill();
    let told = host.connect_and_send(&to, "x");
    assert_eq!(told["reply"], "originx", "{told}");
    let event = host.await_event(EventKind::AbsentPermitted, &to);
    assert_eq!(event.service, service.number);
    assert_eq!(host.count(Counter::AbsentPermitted), 1);
    assert_eq!(host.count(Counter::Redirected), 0);
}

#[test]
fn another_process_at_the_port_of_a_killed_proxy_gets_nothing() {
    let (host, _, proxy) = with_proxy("grabbed", Absent::Block);
    let port = proxy.addresses[0].port();
    proxy.kill();
    let grabber = listen_unmarked(&format!("0.0.0.0:{port}"), 16);
    let told = host.connect("10.1.2.3:80");
    assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
    grabber.set_nonblocking(true).unwrap();
    let nobody = grabber.accept().expect_err("the connect was not sent here");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn connection_that_meets_another_process_at_the_port_carries_no_flow() {
    for (test, address) in with_each_listener(["grabbed_pending", "grabbed_pending_any"]) {
        let (host, service) = with_full_queue(test);
        let grabber = take_over(&host, listen_by_hand(&service, address, 0));
        let (stream, _) = grabber.accept().expect("the SYN comes again");
        assert_eq!(errno_of_info(&stream), libc::ENODATA, "{address}");
    }
}

#[test]
fn connection_that_meets_another_service_at_the_port_carries_no_flow() {
    for (test, address) in with_each_listener(["grabbed_by_service", "grabbed_by_service_any"]) {
        let (mut host, service) = with_full_queue(test);
        let other = host.service("other");
        let grabber = take_over(&host, listen_by_hand(&service, address, 0));
        assert_eq!(e2e::mark(&grabber, &other), 0);
        let (stream, _) = grabber.accept().expect("the SYN comes again");
        assert_eq!(errno_of_info(&stream), libc::ENODATA, "{address}");
    }
}

/// A listener at one address, and one whose connections come to their slots' addresses.
fn with_each_listener(tests: [&str; 2]) -> impl Iterator<Item = (&str, &str)> {
    tests.into_iter().zip(["127.0.0.1:0", "0.0.0.0:0"])
}

#[test]
fn no_other_process_and_no_other_service_gets_flows_by_sharing_the_port() {
    let mut host = Host::new("port_of_two");
    let (service, other) = (host.service("inspect"), host.service("other"));
    let first = listen_shared(([0, 0, 0, 0], 0).into());
    assert_eq!(e2e::mark(&first, &service), 0);
    let second = listen_shared(first.local_addr().unwrap());
    assert_eq!(e2e::mark(&second, &other), libc::EADDRINUSE);
    host.redirect_all(&[&service]);
    let mut strangers = 0;
    for listener in [&first, &second] {
        listener.set_nonblocking(true).unwrap();
    }
    while strangers == 0 {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        let mut arrived = None;
        wait::until("a connection arrives", || {
            let mut listeners = [&first, &second].into_iter().enumerate();
            arrived = listeners.find_map(|(at, one)| Some((at == 1, one.accept().ok()?.0)));
            arrived.is_some()
        });
        let (is_stranger, stream) = arrived.expect("it has");
        strangers += usize::from(is_stranger);
        let expected = if is_stranger { libc::ENODATA } else { 0 };
        assert_eq!(errno_of_info(&stream), expected);
        drop(stream);
        client.wait();
    }
}

fn with_full_queue(test: &str) -> (Host, Service) {
    let mut host = Host::new(test);
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

/// Fills the listener's queue, lets one more knock, and puts another listener in its place.
fn take_over(host: &Host, listener: TcpListener) -> TcpListener {
    let address = listener.local_addr().unwrap().to_string();
    let (before, flows) = (host.count(Counter::HandedOver), host.flows());
    let mut queued = host.client(&["connect", "10.1.2.3:80"]);
    wait::until("the queue is full", || {
        host.count(Counter::HandedOver) == before + 1
    });
    let mut knocking = host.client(&["connect", "10.4.5.6:80"]);
    wait::until("another one knocks", || host.flows() == flows + 2);
    drop(listener);
    let grabber = listen_unmarked(&address, 16);
    assert!(
        knocking.child().try_wait().unwrap().is_none(),
        "it still knocks"
    );
    queued.child().wait().expect("its connection was reset");
    grabber
}

#[test]
fn proxy_that_comes_back_works_again() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let (mut host, service, mut proxy) = with_proxy("comes_back", Absent::Block);
    for _ in 0..5 {
        assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
        proxy.kill();
        assert_eq!(host.engine().listeners(&service).unwrap(), (0, 0));
        assert_eq!(host.connect(&to)["errno"], libc::ECONNREFUSED);
        proxy = host.proxy(&service, "relay");
    }
    assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
}

#[test]
fn closed_listener_is_absent_and_the_last_of_several_counts() {
    let mut host = Host::new("closed_listener");
    let service = host.service("inspect");
    let first = listen_by_hand(&service, "0.0.0.0:0", 16);
    // The same socket twice is one listener, open until the last descriptor of it is closed.
    let second = first.try_clone().unwrap();
    policy(&mut host, &service, Absent::Block);
    assert_eq!(host.engine().listeners(&service).unwrap(), (1, 0));
    drop(first);
    assert_eq!(host.engine().listeners(&service).unwrap(), (1, 0));
    let client = host.client(&["connect", "10.1.2.3:80"]);
    drop(second.accept().expect("still open"));
    assert_eq!(client.json()["ok"], true);
    drop(second);
    assert_eq!(host.engine().listeners(&service).unwrap(), (0, 0));
    assert_eq!(host.connect("10.1.2.3:80")["errno"], libc::ECONNREFUSED);
}

#[test]
fn listeners_that_share_a_port_are_counted_each() {
    let mut host = Host::new("shared_port");
    let service = host.service("inspect");
    let first = listen_shared(([0, 0, 0, 0], 0).into());
    let second = listen_shared(first.local_addr().unwrap());
    for listener in [&first, &second] {
        assert_eq!(e2e::mark(listener, &service), 0);
    }
    policy(&mut host, &service, Absent::Block);
    assert_eq!(host.engine().listeners(&service).unwrap(), (2, 0));
    drop(first);
    assert_eq!(host.engine().listeners(&service).unwrap(), (1, 0));
    let client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = second.accept().expect("the other one goes on");
    assert_eq!(errno_of_info(&stream), 0);
    drop(stream);
    assert_eq!(client.json()["ok"], true);
}

#[test]
fn accepted_sockets_that_close_leave_the_listener_counted() {
    let (mut host, service) = with_full_queue("accepted_close");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    for _ in 0..5 {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        drop(listener.accept().expect("it comes"));
        client.wait();
        assert_eq!(host.engine().listeners(&service).unwrap(), (1, 0));
    }
}

#[test]
fn service_without_a_listener_of_this_family_is_absent() {
    let mut host = Host::new("one_family");
    let service = host.service("inspect");
    let _listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    policy(&mut host, &service, Absent::Block);
    let told = host.connect("[fd00::1]:80");
    assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
    host.await_event(EventKind::AbsentBlocked, "[fd00::1]:80");
}
