//! The conformance cases of docs/wfp.md, 8.6 (UDP). Each is tested by what it means here: the SDK
//! returns what Windows has in control data.

use std::net::UdpSocket;

use e2e::policy::redirect_udp;
use e2e::sys::get_option;
use e2e::{EchoOrigin, Host, netns, wait};
use sidetrack::{Batch, DatagramListener};
use sidetrack_abi::kernel::{CONTEXT, INFO, RECORDS, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{RedirectContext, RegisteredService};

const TO: &str = "10.1.2.3:53";

fn listening(test: &str, context: RedirectContext) -> (Host, RegisteredService, DatagramListener) {
    netns::enter();
    let mut host = Host::new(test);
    let service = host.service("inspect");
    let listener =
        DatagramListener::bind(&e2e::sdk_service(&service)).expect("the listener is marked");
    host.set_policy([redirect_udp(&service).context(context)]);
    (host, service, listener)
}

/// Receives one datagram, and passes it to this function.
fn receive_one(listener: &DatagramListener, check: impl FnOnce(sidetrack::Datagram<'_>)) {
    let mut batch = Batch::new(1, 2048);
    listener.receive(&mut batch).expect("a datagram arrives");
    check(batch.iter().next().expect("the batch has a datagram"));
}

#[test]
fn case_91_first_datagram_brings_records_and_context() {
    let context = b"for the proxy".to_vec();
    let (host, _, listener) = listening("case91", RedirectContext::Fixed(context.clone()));
    for to in [TO, "[fd00::1]:53"] {
        host.client(&["datagrams", to, "--no-reply"]).json();
        receive_one(&listener, |datagram| {
            assert!(datagram.is_first() && datagram.records().is_some());
            assert_eq!(datagram.context(), Some(&context[..]));
            assert_eq!(datagram.flow().original_destination().to_string(), to);
        });
    }
}

#[test]
fn case_93_second_datagram_brings_neither_records_nor_context_but_its_flow() {
    let (host, _, listener) = listening("case93", RedirectContext::Auto);
    host.client(&["datagrams", TO, TO, "--no-reply"]).json();
    let mut first = 0;
    receive_one(&listener, |datagram| first = datagram.flow().id());
    receive_one(&listener, |datagram| {
        assert!(datagram.records().is_none() && datagram.context().is_none());
        assert_eq!(datagram.flow().id(), first);
        assert!(
            datagram.flow().context().is_some(),
            "the flow still has its context"
        );
    });
}

#[test]
fn case_95_plain_receive_returns_only_the_payload() {
    let (host, _, listener) = listening("case95", RedirectContext::Auto);
    host.client(&["datagrams", TO, "--no-reply"]).json();
    let v4 = listener.sockets().next().unwrap();
    let descriptor = UdpSocket::from(v4.try_clone_to_owned().unwrap());
    let mut buffer = [0; 64];
    wait::until("the datagram arrives", || {
        descriptor.recv(&mut buffer).is_ok()
    });
    assert!(buffer.starts_with(TO.as_bytes()));
    assert_eq!(host.count(Counter::HandedOver), 0);
}

/// On Windows the control data of the first datagram has the records. Here they are set on the socket
/// before it. A datagram that is sent without them is refused, so that it cannot loop.
#[test]
fn case_97_first_datagram_without_records_is_refused() {
    let (host, _, listener) = listening("case97", RedirectContext::None);
    host.leave_scope();
    let origin = EchoOrigin::start("127.0.0.1:0");
    host.enter_service_cgroup();
    let to = origin.address.to_string();
    host.client(&["datagrams", &to, "--no-reply"]).json();
    receive_one(&listener, |datagram| {
        let with = datagram.flow().connect_datagrams();
        let with = with.expect("the outgoing socket connects");
        with.send(b"with").unwrap();
        wait::until("the datagram arrives", || origin.datagrams() == 1);
        let without = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = without.send_to(b"without", origin.address).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    });
    assert_eq!(host.count(Counter::RecordsMissing), 1);
    assert_eq!(host.count(Counter::Redirected), 1);
}

/// This differs on purpose: Windows drops the datagrams of a connected socket, and here they arrive.
#[test]
fn case_99_datagrams_of_a_connected_socket_arrive() {
    netns::enter();
    let mut host = Host::new("case99");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for arguments in [&["datagrams", TO, "--connected"][..], &["datagrams", TO]] {
        assert_eq!(host.client(arguments).json()["reply"], TO);
    }
}

#[test]
fn case_101_options_of_an_unconnected_socket_answer_enotconn() {
    let (_host, _, _listener) = listening("case101", RedirectContext::None);
    let fresh = UdpSocket::bind("127.0.0.1:0").unwrap();
    for option in [INFO, CONTEXT, RECORDS] {
        let answer = get_option(&fresh, SOL_SIDETRACK, option, 4096);
        assert_eq!(answer.errno, libc::ENOTCONN);
    }
    let answer = sidetrack::query(&fresh);
    assert!(matches!(answer, Err(sidetrack::Error::NotConnected)));
}

/// A proxy's socket that is bound to a flow's address, and connected to the flow's client, answers the
/// options as a TCP socket does.
#[test]
fn socket_connected_to_a_flows_client_answers_the_options() {
    let (host, _, listener) = listening("datagram_options", RedirectContext::Auto);
    let mut client = host.client(&["datagrams", TO, "--stepwise"]);
    client.send_line("");
    let mut flow = None;
    receive_one(&listener, |datagram| flow = Some(datagram.flow().clone()));
    let flow = flow.unwrap();
    let connected = UdpSocket::bind((flow.own_address().ip(), 0)).unwrap();
    connected.connect(flow.client()).unwrap();
    let answer = sidetrack::query(&connected).expect("the socket answers");
    assert_eq!(answer.id(), flow.id());
    assert_eq!(answer.original_destination().to_string(), TO);
    assert_eq!(answer.context(), flow.context());

    // The socket of a process that does not belong to the service has no answer.
    let other = host.service_cgroup.make("other").unwrap();
    other.add(std::process::id()).unwrap();
    let connected = UdpSocket::bind((flow.own_address().ip(), 0)).unwrap();
    connected.connect(flow.client()).unwrap();
    let answer = sidetrack::query(&connected);
    assert!(
        matches!(answer, Err(sidetrack::Error::NotRedirected)),
        "{answer:?}"
    );
    host.enter_service_cgroup();
    other.remove().unwrap();
}

#[test]
fn case_103_forged_datagram_is_dropped() {
    let (host, _, listener) = listening("case103", RedirectContext::None);
    let port = listener.addresses().unwrap()[0].port();
    let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.leave_scope(); // the sender's socket was made in the service's cgroup, but this process has left it
    forger.send_to(b"forged", ("127.0.0.1", port)).unwrap();
    host.enter_service_cgroup();
    host.client(&["datagrams", TO, "--no-reply"]).json();
    receive_one(&listener, |datagram| {
        assert_eq!(datagram.payload(), TO.as_bytes())
    });
    assert_eq!(listener.refused(), 1);
    assert_eq!(host.count(Counter::DatagramsForged), 1);
}
