//! Datagrams at the layer auth recv-accept, which classifies a flow on the side that did not start it.

use std::net::UdpSocket;
use std::time::Duration;

use e2e::policy::redirect_udp;
use e2e::{Host, client_binary, netns, wait};
use sidetrack_engine::counter::Counter;
use sidetrack_policy::redirect::in_order;
use sidetrack_policy::{Action, Condition, Field, Filter, LayerKind, Value};

const SERVER: &str = "127.0.0.1:8080";
const SERVER_PORT: u64 = 8080;
const CLIENT: &str = "127.0.0.1:45001";
const CLIENT_PORT: u64 = 45001;

/// A filter at the IPv4 layer, with this condition.
fn at_recv_accept(id: u64, action: Action, condition: Condition) -> Filter {
    let [layer, _] = LayerKind::AuthRecvAccept.both();
    Filter {
        id,
        conditions: vec![condition],
        ..Filter::new("inbound", layer, action)
    }
}

fn from_port(port: u64) -> Condition {
    Condition::equal(Field::RemotePort, Value::Uint(port))
}

fn commit(host: &mut Host, filters: &[Filter]) {
    let result = host.engine().commit(filters, &[]);
    result.expect("the policy is valid");
}

fn server() -> UdpSocket {
    let socket = UdpSocket::bind(SERVER).expect("the address is free");
    socket
        .set_read_timeout(Some(wait::DEADLINE))
        .expect("the time-out is set");
    socket
}

fn send_from(host: &mut Host, source: &str) {
    let report = host
        .client(&["datagrams", SERVER, "--bind", source, "--no-reply"])
        .json();
    assert_eq!(report["ok"], true, "{report}");
}

/// Receives a datagram, and returns its sender.
fn sender(socket: &UdpSocket) -> String {
    let (_, from) = socket.recv_from(&mut [0; 64]).expect("a datagram arrives");
    from.to_string()
}

#[test]
fn blocked_datagrams_do_not_arrive_and_others_do() {
    netns::enter();
    let mut host = Host::new("datagram_recv_block");
    commit(
        &mut host,
        &[at_recv_accept(1, Action::Block, from_port(CLIENT_PORT))],
    );
    let socket = server();
    send_from(&mut host, CLIENT);
    wait::until("the block is counted", || host.count(Counter::Blocked) == 1);
    send_from(&mut host, "127.0.0.1:45002");
    assert_eq!(sender(&socket), "127.0.0.1:45002");
}

#[test]
fn sender_is_classified_once_for_each_policy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_once");
    commit(
        &mut host,
        &[at_recv_accept(1, Action::Inspect, from_port(CLIENT_PORT))],
    );
    let socket = server();
    for _ in 0..3 {
        send_from(&mut host, CLIENT);
        assert_eq!(sender(&socket), CLIENT);
    }
    assert_eq!(host.count(Counter::Inspected), 1);
    commit(
        &mut host,
        &[at_recv_accept(2, Action::Block, from_port(CLIENT_PORT))],
    );
    send_from(&mut host, CLIENT);
    wait::until("the block is counted", || host.count(Counter::Blocked) == 1);
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    socket
        .recv_from(&mut [0; 64])
        .expect_err("no datagram arrives");
}

/// A server that answers has not started the flow, so the next policy classifies the sender again.
#[test]
fn answered_sender_is_classified_again_by_the_next_policy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_answered");
    let from_client = |id, action| [at_recv_accept(id, action, from_port(CLIENT_PORT))];
    commit(&mut host, &from_client(1, Action::Permit));
    let socket = server();
    send_from(&mut host, CLIENT);
    assert_eq!(sender(&socket), CLIENT);
    socket
        .send_to(b"answer", CLIENT)
        .expect("the answer is sent");
    commit(&mut host, &from_client(2, Action::Block));
    send_from(&mut host, CLIENT);
    wait::until("the block is counted", || host.count(Counter::Blocked) == 1);
}

#[test]
fn answers_are_not_classified() {
    netns::enter();
    let mut host = Host::new("datagram_recv_answer");
    commit(
        &mut host,
        &[at_recv_accept(1, Action::Block, from_port(SERVER_PORT))],
    );
    let socket = server();
    for extra in [&[][..], &["--connected"]] {
        let client = host.client(&[&["datagrams", SERVER], extra].concat());
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram arrives");
        socket
            .send_to(&buffer[..length], from)
            .expect("the answer is sent");
        let report = client.json();
        assert_eq!(report["reply"], SERVER, "{report}");
    }
    assert_eq!(host.count(Counter::Blocked), 0);
}

#[test]
fn block_at_recv_accept_does_not_affect_answers_of_the_proxy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_diverted");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    let program = Value::Path(client_binary().display().to_string());
    let block = at_recv_accept(99, Action::Block, Condition::equal(Field::App, program));
    let mut filters = in_order([redirect_udp(&service)]);
    filters.push(block);
    commit(&mut host, &filters);
    let to = "10.1.2.3:53";
    for extra in [&[][..], &["--connected"]] {
        let report = host.client(&[&["datagrams", to], extra].concat()).json();
        assert_eq!(
            (&report["reply"], &report["from"]),
            (&to.into(), &to.into())
        );
    }
}
