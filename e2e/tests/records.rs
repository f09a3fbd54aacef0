//! Proxies that set no records: those that must set them, and legacy proxies, which cannot.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use e2e::policy::{both_families, port, prefix, redirect_tcp, redirect_udp};
use e2e::{Host, Origin, Process};
use sidetrack::Flow;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{Cgroup, Config, Engine, RecordsMode, RegisteredService, ServiceSpec};
use sidetrack_policy::redirect::in_order;
use sidetrack_policy::{Action, LayerKind};
use socket2::{Domain, SockAddr, Socket, Type};

#[test]
fn connect_of_a_proxy_without_records_is_blocked_and_reported() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("forgets");
    let service = host.service("forgetful");
    let proxy = host.proxy(&service, "without-records");
    host.redirect_all(&[&service]);
    let report = host.connect(&to);
    assert_eq!(
        report["reply"], "",
        "the proxy's connect is refused: {report}"
    );
    let event = host.await_event(EventKind::RecordsMissing, &to);
    assert_eq!((event.service, event.pid), (service.number, proxy.id()));
    assert_eq!(
        host.count(Counter::RecordsMissing),
        1,
        "the connect is refused once and does not loop"
    );
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn connect_of_a_proxy_without_records_goes_directly_with_required_or_own() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("forgets_permitted");
    let service = host.service_with_spec(&ServiceSpec {
        records: RecordsMode::RequiredOrOwn,
        ..ServiceSpec::new("forgetful")
    });
    let _proxy = host.proxy(&service, "without-records");
    host.redirect_all(&[&service]);
    let report = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(host.count(Counter::RecordsMissing), 0);
}

/// A connection through the chain [first, legacy, last]: each service and the origin see it once.
fn legacy_in_a_chain(test: &str, kind: &str) {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new(test);
    let (first, last) = (host.service("first"), host.service("last"));
    let (first_proxy, last_proxy) = (host.relay(&first), host.relay(&last));
    let legacy_proxy = host.legacy_proxy(kind);
    let legacy = host
        .engine()
        .adopt_service("legacy", legacy_proxy.addresses[0])
        .expect("the proxy listens");
    host.redirect_all(&[&first, &legacy, &last]);
    assert_three_services_and_origin_see_one_connection(&host, &origin);
    assert_eq!(first_proxy.flows().len(), 1);
    let chain: Vec<_> = last_proxy.flows()[0].chain().map(str::to_owned).collect();
    assert_eq!(chain, ["first", "legacy", "last"]);
    assert_eq!(last_proxy.flows().len(), 1);
}

fn assert_three_services_and_origin_see_one_connection(host: &Host, origin: &Origin) {
    let report = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::Redirected), 3);
    assert_eq!(host.count(Counter::HandedOver), 3);
}

#[test]
fn legacy_proxy_in_a_chain_is_classified_by_the_filters_after_its_place() {
    legacy_in_a_chain("legacy", "legacy");
}

#[test]
fn connect_by_a_legacy_proxys_child_process_is_recognised_by_descent() {
    legacy_in_a_chain("legacy_forking", "legacy-forking");
}

#[test]
fn legacy_service_that_owns_a_cgroup_is_recognised_by_it() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("legacy_cgroup");
    let home = host
        .service_cgroup
        .make("vendor")
        .expect("the cgroup is made");
    let spec = ServiceSpec {
        owns_cgroup: true,
        ..ServiceSpec::legacy("legacy")
    };
    let (first, last) = (host.service("first"), host.service("last"));
    let _proxies = [host.relay(&first), host.relay(&last)];
    let legacy = host
        .engine()
        .add_service(&spec, &home)
        .expect("the service is added");
    let _vendor = Process::proxy(&home, Some(&legacy), &["without-records"]);
    host.redirect_all(&[&first, &legacy, &last]);
    assert_three_services_and_origin_see_one_connection(&host, &origin);
}

#[test]
fn two_legacy_proxies_see_a_connection_once_each() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("two_legacy");
    let proxies = [
        host.legacy_proxy("legacy"),
        host.legacy_proxy("legacy-forking"),
    ];
    let last = host.service("last");
    let _last_proxy = host.relay(&last);
    let mut services: Vec<RegisteredService> = proxies
        .iter()
        .map(|proxy| host.engine().adopt_service("vendor", proxy.addresses[0]))
        .collect::<Result<_, _>>()
        .expect("the proxies listen");
    services.push(last);
    host.redirect_all(&services.iter().collect::<Vec<_>>());
    assert_three_services_and_origin_see_one_connection(&host, &origin);
}

#[test]
fn last_filter_of_a_legacy_service_determines_its_position() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("legacy_position");
    let proxy = host.legacy_proxy("legacy");
    let legacy = host
        .engine()
        .adopt_service("legacy", proxy.addresses[0])
        .expect("the proxy listens");
    let (between, last) = (host.service("between"), host.service("last"));
    let (between_proxy, last_proxy) = (host.relay(&between), host.relay(&last));
    host.redirect_all(&[&legacy, &between, &legacy, &last]);
    let report = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(last_proxy.flows().len(), 1);
    assert_eq!(
        between_proxy.flows().len(),
        0,
        "the service is in front of the legacy service's last filter"
    );
}

/// A host whose scope is only the cgroup for programs. Sidetrack's programs are attached at the
/// cgroup for proxies too.
fn with_narrow_scope(test: &str) -> (Host, RegisteredService) {
    let mut host = Host::without_engine(test);
    let engine = Engine::open(&host.program_cgroup, Config::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach());
    host.engine = Some(engine.expect("the engine is attached"));
    host.enter_service_cgroup();
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

#[test]
fn program_outside_of_the_scope_is_not_redirected() {
    let origin = Origin::start("127.0.0.1:0");
    let (host, service) = with_narrow_scope("outside");
    let proxy = host.answer(&service);
    let bystander = host
        .service_cgroup
        .make("bystander")
        .expect("the cgroup is made");
    let to = origin.address.to_string();
    let report = connect_from(&host, &bystander, &to);
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(report["peer"], to);
    assert_eq!(proxy.flows().len(), 0);
    assert_eq!(
        host.connect("10.1.2.3:80")["reply"],
        "10.1.2.3:80",
        "a program inside of the scope is redirected"
    );
}

fn connect_from(host: &Host, cgroup: &Cgroup, to: &str) -> serde_json::Value {
    host.client_in(cgroup, &["connect", to, "--send", "x"])
        .json()
}

#[test]
fn child_of_a_service_in_another_cgroup_is_an_ordinary_program() {
    // This process belongs to the service. Its child in the cgroup for programs is redirected
    // nevertheless.
    let (host, service) = with_narrow_scope("child_program");
    let _answering = host.answer(&service);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    // A child in the service's cgroup belongs to the service.
    let report = host
        .client_in(&host.service_cgroup, &["connect", "10.1.2.3:80"])
        .json();
    assert_eq!(report["errno"], libc::EPERM, "{report}");
    assert_eq!(host.count(Counter::RecordsMissing), 1);
}

#[test]
fn services_own_traffic_passes_if_no_filter_matches() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("own_unmatched");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy([redirect_tcp(&service).remote(prefix("10.0.0.0/8"))]);
    std::net::TcpStream::connect(origin.address).expect("no filter matches");
    assert_eq!(host.count(Counter::RecordsMissing), 0);
}

/// The errno of a call; 0 if it succeeded.
fn errno<T>(result: io::Result<T>) -> i32 {
    result
        .err()
        .map_or(0, |error| error.raw_os_error().expect("the kernel's error"))
}

/// The errors of a TCP connect, a UDP connect, and a datagram of an unconnected socket.
fn own_traffic(to: SocketAddr) -> [i32; 3] {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => "0.0.0.0:0".parse().expect("an address"),
        SocketAddr::V6(_) => "[::]:0".parse().expect("an address"),
    };
    let socket = || UdpSocket::bind(any).expect("a port is free");
    [
        errno(TcpStream::connect(to)),
        errno(socket().connect(to)),
        errno(socket().send_to(b"x", to)),
    ]
}

/// A service whose proxy is this process, and may have its own traffic. Everything is redirected to
/// it, and a filter at the layer blocks one port. Returns the errors of this process's own traffic
/// to the blocked port and to the other.
fn blocked_own_traffic(test: &str, layer: LayerKind, address: &str) -> [[i32; 3]; 2] {
    let address: IpAddr = address.parse().expect("an address");
    let origins = [(); 2].map(|()| Origin::start(&SocketAddr::from((address, 0)).to_string()));
    let [blocked, permitted] = origins.map(|origin| origin.address);
    let mut host = Host::new(test);
    let service = host.service_with_spec(&ServiceSpec {
        records: RecordsMode::RequiredOrOwn,
        ..ServiceSpec::new("own")
    });
    let _answering = host.answer(&service);
    let mut filters = in_order([redirect_tcp(&service), redirect_udp(&service)]);
    let conditions = [port(blocked.port().into())];
    // Its weight is below that of the redirects, which would otherwise not be reached.
    filters.extend(both_families(layer, 0, Action::Block, &conditions));
    host.commit(&filters, &[]);
    [blocked, permitted].map(own_traffic)
}

#[test]
fn own_traffic_is_not_redirected_but_blocked_by_every_layer_over_both_families() {
    for (layer, address) in [
        (LayerKind::AuthConnect, "127.0.0.1"),
        (LayerKind::AuthConnect, "::1"),
        (LayerKind::ConnectRedirect, "127.0.0.1"),
        (LayerKind::ConnectRedirect, "::1"),
    ] {
        let [blocked, permitted] = blocked_own_traffic("own_blocked", layer, address);
        assert_eq!(blocked, [libc::EACCES; 3], "{layer:?} {address}");
        assert_eq!(permitted, [0; 3], "{layer:?} {address}");
    }
}

/// A socket with the records of a flow.
fn outgoing(flow: &Flow, domain: Domain, kind: Type) -> Socket {
    let socket = Socket::new(domain, kind, None).expect("the socket is made");
    sidetrack::set_records(&socket, &flow.records()).expect("the records are valid");
    socket
}

/// The destination for a socket of a domain: IPv4-mapped for an IPv6 socket.
fn destination(to: SocketAddr, domain: Domain) -> SockAddr {
    match (to, domain) {
        (SocketAddr::V4(v4), Domain::IPV6) => {
            SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())).into()
        }
        _ => to.into(),
    }
}

/// The errors of every way in which a socket with the records of a flow can go to a destination: TCP
/// connect, UDP connect, a datagram of an unconnected socket, and one of a socket that is connected
/// to the flow's destination.
fn with_records(flow: &Flow, to: SocketAddr, domain: Domain) -> [i32; 4] {
    let socket = |kind| outgoing(flow, domain, kind);
    let own = destination(flow.original_destination(), domain);
    let to = destination(to, domain);
    let connected = socket(Type::DGRAM);
    let first = connected.connect(&own);
    [
        errno(socket(Type::STREAM).connect(&to)),
        errno(socket(Type::DGRAM).connect(&to)),
        errno(socket(Type::DGRAM).send_to(b"x", &to)),
        errno(first.and_then(|()| connected.send_to(b"x", &to))),
    ]
}

/// Makes a TCP and a UDP flow to the address of an origin, of a service with or without bound
/// records. Calls the function with both flows, the flows' destination, and another one.
fn with_two_flows(
    test: &str,
    address: &str,
    records_bound: bool,
    check: impl FnOnce(&mut Host, [&Flow; 2], [SocketAddr; 2]),
) {
    let address: IpAddr = address.parse().expect("an address");
    let start = || Origin::start(&SocketAddr::from((address, 0)).to_string());
    let [origin, other] = [start(), start()];
    let mut host = Host::new(test);
    let service = host.service_with_spec(&ServiceSpec {
        records_bound,
        ..ServiceSpec::new("bound")
    });
    let (proxy, datagrams) = (host.answer(&service), host.echo_datagrams(&service));
    host.set_policy([redirect_tcp(&service), redirect_udp(&service)]);
    let to = origin.address.to_string();
    assert_eq!(host.connect(&to)["reply"], to);
    assert_eq!(host.client(&["datagrams", &to]).json()["reply"], to);
    let (tcp, udp) = (&proxy.flows()[0], &datagrams.flows()[0]);
    check(&mut host, [tcp, udp], [origin.address, other.address]);
}

const EPERM: i32 = libc::EPERM;

fn bound_records(test: &str, address: &str, domain: Domain) {
    with_two_flows(test, address, true, |host, [tcp, udp], [own, other]| {
        // The destination of a flow has the flow's protocol.
        assert_eq!(with_records(tcp, own, domain), [0, EPERM, EPERM, EPERM]);
        assert_eq!(with_records(udp, own, domain), [EPERM, 0, 0, 0]);
        let before = host.count(Counter::RecordsBound);
        for flow in [tcp, udp] {
            assert_eq!(with_records(flow, other, domain), [EPERM; 4]);
        }
        // The connect to the TCP flow's own destination by UDP is refused too.
        assert_eq!(host.count(Counter::RecordsBound), before + 8);
        let event = host.await_event(EventKind::RecordsBound, &other.to_string());
        assert_eq!(event.pid, std::process::id());
    });
}

#[test]
fn bound_records_work_for_the_destination_of_their_flow_only_over_ipv4() {
    bound_records("bound4", "127.0.0.1", Domain::IPV4);
}

#[test]
fn bound_records_work_for_the_destination_of_their_flow_only_over_ipv6() {
    bound_records("bound6", "::1", Domain::IPV6);
}

#[test]
fn bound_records_work_for_the_destination_of_their_flow_only_on_mapped_sockets() {
    bound_records("bound_mapped", "127.0.0.1", Domain::IPV6);
}

#[test]
fn other_records_work_for_any_destination_and_protocol() {
    with_two_flows("unbound", "127.0.0.1", false, |host, flows, [_, other]| {
        for flow in flows {
            assert_eq!(with_records(flow, other, Domain::IPV4), [0; 4]);
        }
        assert_eq!(host.count(Counter::RecordsBound), 0);
    });
}

#[test]
fn a_socket_that_is_bound_to_the_address_of_a_flow_sends_only_to_its_client() {
    for address in ["127.0.0.1", "::1"] {
        with_two_flows("replies", address, false, |host, [_, udp], [_, other]| {
            let socket = || {
                let from = SocketAddr::from((udp.own_address().ip(), 0));
                let domain = Domain::for_address(from);
                let socket = Socket::new(domain, Type::DGRAM, None).expect("the socket is made");
                if domain == Domain::IPV6 {
                    socket.set_freebind_v6(true).expect("the option exists");
                }
                socket.bind(&from.into()).expect("the address is local");
                UdpSocket::from(socket)
            };
            for to in [other, udp.original_destination()] {
                assert_eq!(errno(socket().connect(to)), EPERM, "{to}");
                assert_eq!(errno(socket().send_to(b"x", to)), EPERM, "{to}");
            }
            assert_eq!(host.count(Counter::RecordsMissing), 4);
            assert_eq!(errno(socket().connect(udp.client())), 0);
        });
    }
}
