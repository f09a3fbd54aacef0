//! The odd-numbered cases of the specification's 8.6, UDP: each by what it means here, where the SDK
//! gives what control data gives there.

use std::net::UdpSocket;

use e2e::sys::get_option;
use e2e::{EchoOrigin, Host, netns, wait};
use sidetrack::{Batch, DatagramListener};
use sidetrack_abi::kernel::{CONTEXT, INFO, RECORDS, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::filter::RedirectContext;
use sidetrack_engine::{Filter, Service};

const TO: &str = "10.1.2.3:53";

fn listening(test: &str, context: RedirectContext) -> (Host, Service, DatagramListener) {
    netns::enter();
    let mut host = Host::new(test);
    let service = host.service("inspect");
    let listener = DatagramListener::bind(&e2e::sdk(&service)).expect("it is accepted");
    host.set_policy(&[Filter {
        context,
        ..Filter::redirect_datagrams(service.number)
    }]);
    (host, service, listener)
}

fn one(listener: &DatagramListener, look: impl FnOnce(sidetrack::Datagram<'_>)) {
    let mut batch = Batch::new(1, 2048);
    listener.receive(&mut batch).expect("one comes");
    look(batch.iter().next().expect("there is one"));
}

#[test]
fn case_91_first_datagram_brings_records_and_context() {
    let context = b"for the proxy".to_vec();
    let (host, _, listener) = listening("case91", RedirectContext::Fixed(context.clone()));
    for to in [TO, "[fd00::1]:53"] {
        host.client(&["datagrams", to, "--forget"]).json();
        one(&listener, |datagram| {
            assert!(datagram.is_first() && datagram.records().is_some());
            assert_eq!(datagram.context(), Some(&context[..]));
            assert_eq!(datagram.flow().original_destination().to_string(), to);
        });
    }
}

#[test]
fn case_93_second_datagram_of_a_flow_brings_neither_but_its_flow_is_known() {
    let (host, _, listener) = listening("case93", RedirectContext::Auto);
    host.client(&["datagrams", TO, TO, "--forget"]).json();
    let mut first = 0;
    one(&listener, |datagram| first = datagram.flow().id());
    one(&listener, |datagram| {
        assert!(datagram.records().is_none() && datagram.context().is_none());
        assert_eq!(datagram.flow().id(), first);
        assert!(datagram.flow().context().is_some(), "the flow has it still");
    });
}

#[test]
fn case_95_plain_receive_gives_the_payload_alone() {
    let (host, _, listener) = listening("case95", RedirectContext::Auto);
    host.client(&["datagrams", TO, "--forget"]).json();
    let v4 = listener.sockets().next().unwrap();
    let descriptor = UdpSocket::from(v4.try_clone_to_owned().unwrap());
    let mut buffer = [0; 64];
    wait::until("it comes", || descriptor.recv(&mut buffer).is_ok());
    assert!(buffer.starts_with(TO.as_bytes()));
    assert_eq!(host.count(Counter::HandedOver), 0);
}

/// There by control data of the first datagram; here by the socket, before it: what is sent without is
/// refused, so that it cannot loop.
#[test]
fn case_97_records_are_set_for_the_first_datagram_or_it_is_refused() {
    let (host, _, listener) = listening("case97", RedirectContext::None);
    host.leave();
    let origin = EchoOrigin::start("127.0.0.1:0");
    host.enter_service();
    let to = origin.address.to_string();
    host.client(&["datagrams", &to, "--forget"]).json();
    one(&listener, |datagram| {
        let with = datagram.flow().connect_datagrams().expect("goes on");
        with.send(b"with").unwrap();
        wait::until("it arrives", || origin.datagrams() == 1);
        let without = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = without.send_to(b"without", origin.address).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    });
    assert_eq!(host.count(Counter::RecordsMissing), 1);
    assert_eq!(host.count(Counter::Redirected), 1);
}

/// Turned round: Windows drops the datagrams of a connected socket; here they arrive.
#[test]
fn case_99_connected_socket_works() {
    netns::enter();
    let mut host = Host::new("case99");
    let service = host.service("inspect");
    let _proxy = host.echo_datagrams(&service);
    host.redirect_datagrams(&[&service]);
    for form in [&["datagrams", TO, "--connected"][..], &["datagrams", TO]] {
        assert_eq!(host.client(form).json()["reply"], TO);
    }
}

#[test]
fn case_101_options_of_an_unconnected_socket_say_so() {
    let (_host, _, _listener) = listening("case101", RedirectContext::None);
    let fresh = UdpSocket::bind("127.0.0.1:0").unwrap();
    for option in [INFO, CONTEXT, RECORDS] {
        let answer = get_option(&fresh, SOL_SIDETRACK, option, 4096);
        assert_eq!(answer.errno, libc::ENOTCONN);
    }
    let asked = sidetrack::query(&fresh);
    assert!(matches!(asked, Err(sidetrack::Error::NotConnected)));
}

/// A socket that is bound to a flow's address and connected to its client is asked as a TCP one is.
#[test]
fn a_connected_socket_of_the_services_own_answers_the_options() {
    let (host, _, listener) = listening("datagram_options", RedirectContext::Auto);
    let mut client = host.client(&["datagrams", TO, "--stepwise"]);
    client.tell("");
    let mut flow = None;
    one(&listener, |datagram| flow = Some(datagram.flow().clone()));
    let flow = flow.unwrap();
    let own = UdpSocket::bind((flow.own_address().ip(), 0)).unwrap();
    own.connect(flow.client()).unwrap();
    let asked = sidetrack::query(&own).expect("it answers");
    assert_eq!(asked.id(), flow.id());
    assert_eq!(asked.original_destination().to_string(), TO);
    assert_eq!(asked.context(), flow.context());

    // Who is not the service is told nothing.
    let stranger = host.service.make("stranger").unwrap();
    stranger.add(std::process::id()).unwrap();
    let own = UdpSocket::bind((flow.own_address().ip(), 0)).unwrap();
    own.connect(flow.client()).unwrap();
    let asked = sidetrack::query(&own);
    assert!(
        matches!(asked, Err(sidetrack::Error::NotRedirected)),
        "{asked:?}"
    );
    host.enter_service();
    stranger.remove().unwrap();
}

#[test]
fn case_103_forged_datagram_is_dropped() {
    let (host, _, listener) = listening("case103", RedirectContext::None);
    let port = listener.addresses().unwrap()[0].port();
    let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.leave(); // the forger is of the service's cgroup; its socket is not
    forger.send_to(b"forged", ("127.0.0.1", port)).unwrap();
    host.enter_service();
    host.client(&["datagrams", TO, "--forget"]).json();
    one(&listener, |datagram| {
        assert_eq!(datagram.payload(), TO.as_bytes())
    });
    assert_eq!(listener.refused(), 1);
    assert_eq!(host.count(Counter::DatagramsForged), 1);
}
