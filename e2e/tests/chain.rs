//! Chains of services: each service sees a connection exactly once, in order.

use std::net::SocketAddr;

use e2e::policy::{prefix, redirect_tcp};
use e2e::{Host, Origin, listen_marked};
use sidetrack::set_records;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::{Family, Layer, LayerKind};
use socket2::{Domain, Socket, Type};

#[test]
fn redirected_connection_answers_with_its_original_destination() {
    let mut host = Host::new("original_destination");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in ["10.1.2.3:80", "[2001:db8::7]:443"] {
        let report = host.connect(to);
        assert_eq!(report["reply"], to, "{report}");
        assert_eq!(report["peer"], to, "{report}");
    }
    let mapped = host.client(&["connect", "10.1.2.3:80", "--mapped"]).json();
    assert_eq!(mapped["reply"], "10.1.2.3:80", "{mapped}");
    assert_eq!(mapped["peer"], "[::ffff:10.1.2.3]:80", "{mapped}");
}

/// A chain of this length: each service and the origin see the connection once (ARCHITECTURE.md,
/// What must always hold, 1 and 2).
fn each_sees_it_once(length: usize, test: &str, address: &str) {
    let origin = Origin::start(address);
    let mut host = Host::new(test);
    let services: Vec<_> = (0..length)
        .map(|index| host.service(&format!("service-{index}")))
        .collect();
    let proxies: Vec<_> = services.iter().map(|service| host.relay(service)).collect();
    host.redirect_all(&services.iter().collect::<Vec<_>>());
    let to = origin.address.to_string();
    let report = host.client(&["connect", &to, "--send", "ping"]).json();
    assert_eq!(report["reply"], "originping", "{report}");
    assert_eq!(origin.accepted(), 1);
    for (index, proxy) in proxies.iter().enumerate() {
        let flows = proxy.flows();
        assert_eq!(flows.len(), 1, "service {index} saw the connection once");
        assert_eq!(flows[0].original_destination(), origin.address);
        let chain: Vec<_> = flows[0].chain().map(str::to_owned).collect();
        let want: Vec<_> = (0..=index)
            .map(|index| format!("service-{index}"))
            .collect();
        assert_eq!(chain, want);
        assert_eq!(flows[0].origin_id(), proxies[0].flows()[0].id());
        assert_eq!(flows[0].program().pid, proxies[0].flows()[0].program().pid);
    }
}

#[test]
fn chain_of_3_sees_each_service_exactly_once_in_order() {
    each_sees_it_once(3, "chain_of_3", "127.0.0.1:0");
}

#[test]
fn chain_of_3_over_ipv6_sees_each_service_exactly_once_in_order() {
    each_sees_it_once(3, "chain_of_3_v6", "[::1]:0");
}

#[test]
fn chain_of_16_sees_each_service_exactly_once_in_order() {
    each_sees_it_once(16, "chain_of_16", "127.0.0.1:0");
}

#[test]
fn connect_to_a_17th_service_is_refused_and_reported() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("seventeenth");
    let services: Vec<_> = (0..17)
        .map(|index| host.service(&index.to_string()))
        .collect();
    let proxies: Vec<_> = services.iter().map(|service| host.relay(service)).collect();
    host.redirect_all(&services.iter().collect::<Vec<_>>());
    let report = host.connect(&origin.address.to_string());
    assert_eq!(
        report["reply"], "",
        "the 16th proxy's connect is refused: {report}"
    );
    assert_eq!(origin.accepted(), 0);
    assert_eq!(proxies[15].flows().len(), 1);
    assert_eq!(proxies[16].flows().len(), 0);
    assert_eq!(host.count(Counter::ChainTooLong), 1);
    let event = host.await_event(EventKind::ChainTooLong, &origin.address.to_string());
    assert_eq!(event.service, services[16].number);
}

#[test]
fn connection_is_never_redirected_twice_to_one_service() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("never_again");
    let (first, second) = (host.service("first"), host.service("second"));
    let proxies = [host.relay(&first), host.relay(&second)];
    // Several filters name the same two services; still each of them sees the connection once.
    host.redirect_all(&[&first, &second, &first, &second, &second, &first]);
    let report = host
        .client(&["connect", &origin.address.to_string(), "--send", "x"])
        .json();
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(origin.accepted(), 1);
    assert!(proxies.iter().all(|proxy| proxy.flows().len() == 1));
    assert_eq!(host.count(Counter::Redirected), 2);
    assert_eq!(host.count(Counter::HandedOver), 2);
}

#[test]
fn address_and_port_of_the_filters_decide_the_service() {
    let mut host = Host::new("different_ways");
    let (web, other) = (host.service("web"), host.service("other"));
    let (web_proxy, other_proxy) = (host.answer(&web), host.answer(&other));
    host.set_policy([
        redirect_tcp(&web)
            .remote(prefix("10.0.0.0/8"))
            .ports(443..=444),
        redirect_tcp(&other).remote(prefix("fd00::/8")),
    ]);
    assert_eq!(host.connect("10.9.9.9:444")["reply"], "10.9.9.9:444");
    assert_eq!(host.connect("[fd00::1]:444")["reply"], "[fd00::1]:444");
    let origin = Origin::start("127.0.0.1:0");
    let direct = host.client(&["connect", &origin.address.to_string(), "--send", "x"]);
    assert_eq!(direct.json()["reply"], "originx");
    assert_eq!((web_proxy.flows().len(), other_proxy.flows().len()), (1, 1));
}

/// The socket has records, so its connect is refused before a layer is classified.
#[test]
fn connect_to_the_proxys_own_listener_is_reported_at_the_first_layer() {
    let mut host = Host::new("own_listener");
    let service = host.service("inspect");
    let listeners = ["0.0.0.0:0", "[::1]:0"].map(|address| listen_marked(&service, address, 16));
    host.redirect_all(&[&service]);
    let _client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = listeners[0].accept().expect("the client connects");
    let flow = sidetrack::query(&stream).expect("the socket answers");
    for (listener, loopback) in listeners.iter().zip(["127.0.0.1", "::1"]) {
        let port = listener.local_addr().expect("it is bound").port();
        let to = SocketAddr::new(loopback.parse().expect("an address"), port);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        set_records(&socket, &flow.records()).expect("the token is valid");
        let refused = socket.connect(&to.into()).expect_err("it would loop");
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
        let event = host.await_event(EventKind::SelfConnect, &to.to_string());
        let layer = Layer {
            kind: LayerKind::ConnectRedirect,
            family: Family::of(to.ip()),
        };
        assert_eq!(event.layer, Some(layer));
    }
    assert_eq!(host.count(Counter::SelfConnect), 2);
}
