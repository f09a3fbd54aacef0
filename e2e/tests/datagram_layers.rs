//! Datagrams at the layer auth recv-accept: a flow is judged on the side that did not begin it.

use std::net::UdpSocket;
use std::time::Duration;

use e2e::{Host, client_binary, netns, wait};
use sidetrack_engine::counter::Counter;
use sidetrack_policy::{Action, Condition, Field, Filter, LayerKind, Value};

const SERVER: &str = "127.0.0.1:8080";
const SERVER_PORT: u64 = 8080;
const CLIENT: &str = "127.0.0.1:45001";
const CLIENT_PORT: u64 = 45001;

/// A filter at the layer, for datagrams that this condition is true of.
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

fn put(host: &mut Host, filters: &[Filter]) {
    let result = host.engine().commit(filters, &[]);
    result.expect("the policy is good");
}

fn server() -> UdpSocket {
    let socket = UdpSocket::bind(SERVER).expect("nobody else is here");
    let patience = Some(wait::DEADLINE);
    socket.set_read_timeout(patience).expect("may be set");
    socket
}

fn send_from(host: &mut Host, source: &str) {
    let told = host
        .client(&["datagrams", SERVER, "--bind", source, "--forget"])
        .json();
    assert_eq!(told["ok"], true, "{told}");
}

/// Who has sent the next datagram that came through.
fn sender(socket: &UdpSocket) -> String {
    let (_, from) = socket.recv_from(&mut [0; 64]).expect("one comes through");
    from.to_string()
}

#[test]
fn blocked_datagrams_do_not_arrive_and_others_do() {
    netns::enter();
    let mut host = Host::new("datagram_recv_block");
    put(
        &mut host,
        &[at_recv_accept(1, Action::Block, from_port(CLIENT_PORT))],
    );
    let socket = server();
    send_from(&mut host, CLIENT);
    wait::until("it is counted", || host.count(Counter::Blocked) == 1);
    send_from(&mut host, "127.0.0.1:45002");
    assert_eq!(sender(&socket), "127.0.0.1:45002");
}

#[test]
fn a_sender_is_judged_once_by_each_policy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_once");
    put(
        &mut host,
        &[at_recv_accept(1, Action::Inspect, from_port(CLIENT_PORT))],
    );
    let socket = server();
    for _ in 0..3 {
        send_from(&mut host, CLIENT);
        assert_eq!(sender(&socket), CLIENT);
    }
    assert_eq!(host.count(Counter::Inspected), 1);
    put(
        &mut host,
        &[at_recv_accept(2, Action::Block, from_port(CLIENT_PORT))],
    );
    send_from(&mut host, CLIENT);
    wait::until("it is counted", || host.count(Counter::Blocked) == 1);
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    socket
        .recv_from(&mut [0; 64])
        .expect_err("nothing comes through");
}

/// A server that answers has not begun the flow: the next policy judges the sender again.
#[test]
fn a_sender_that_was_answered_is_judged_by_the_next_policy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_answered");
    let of_client = |id, action| [at_recv_accept(id, action, from_port(CLIENT_PORT))];
    put(&mut host, &of_client(1, Action::Permit));
    let socket = server();
    send_from(&mut host, CLIENT);
    assert_eq!(sender(&socket), CLIENT);
    socket.send_to(b"answer", CLIENT).expect("it is answered");
    put(&mut host, &of_client(2, Action::Block));
    send_from(&mut host, CLIENT);
    wait::until("it is counted", || host.count(Counter::Blocked) == 1);
}

#[test]
fn answers_are_not_judged() {
    netns::enter();
    let mut host = Host::new("datagram_recv_answer");
    put(
        &mut host,
        &[at_recv_accept(1, Action::Block, from_port(SERVER_PORT))],
    );
    let socket = server();
    for extra in [&[][..], &["--connected"]] {
        let client = host.client(&[&["datagrams", SERVER], extra].concat());
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("it comes through");
        socket.send_to(&buffer[..length], from).expect("answered");
        let told = client.json();
        assert_eq!(told["reply"], SERVER, "{told}");
    }
    assert_eq!(host.count(Counter::Blocked), 0);
}

#[test]
fn a_diverted_program_hears_its_proxy() {
    netns::enter();
    let mut host = Host::new("datagram_recv_diverted");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    let program = Value::Path(client_binary().display().to_string());
    let deaf = at_recv_accept(99, Action::Block, Condition::equal(Field::App, program));
    let redirect = sidetrack_engine::Filter::redirect_datagrams(service.number);
    host.engine()
        .set_policy_with(&[redirect], &[deaf])
        .expect("the policy is good");
    let to = "10.1.2.3:53";
    for extra in [&[][..], &["--connected"]] {
        let told = host.client(&[&["datagrams", to], extra].concat()).json();
        assert_eq!((&told["reply"], &told["from"]), (&to.into(), &to.into()));
    }
}
