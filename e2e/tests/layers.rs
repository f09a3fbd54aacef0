//! Each layer is classified by its own hook, with the right values of all its fields.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use e2e::policy::sublayer;
use e2e::{Host, client_binary, netns, wait};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_policy::field::{address_type, flags};
use sidetrack_policy::{
    Action, Condition, Family, Field, Filter, Layer, LayerKind, MatchType, Uuid, Value, Weight,
};

const UNKNOWN_USER: u64 = 4242;
/// Longer than a loopback connect takes, and shorter than the time until the second SYN.
const SYN_WAIT: Duration = Duration::from_millis(500);

const TCP: u64 = 6;
const UDP: u64 = 17;

/// One end of a connection, with the values that a layer should see.
struct Endpoint {
    app: String,
    cgroup: String,
    protocol: u64,
    local: SocketAddr,
    /// `None` if the layer has no values of the other end.
    remote: Option<SocketAddr>,
}

fn path(text: &str) -> Value {
    Value::Path(text.to_owned())
}

fn with(field: Field, match_type: MatchType, value: Value) -> Condition {
    Condition {
        field,
        match_type,
        value,
    }
}

/// For each field, a condition that must hold and one that must not.
fn conditions(end: &Endpoint) -> Vec<(Condition, Condition)> {
    let root = end
        .cgroup
        .rsplit_once('/')
        .expect("the cgroup is below the test's")
        .0;
    let own_user = std::fs::metadata("/proc/self")
        .expect("/proc is mounted")
        .uid();
    let elsewhere = if end.local.is_ipv4() {
        "127.0.0.9"
    } else {
        "fd00::9"
    };
    let elsewhere = || Value::Address(elsewhere.parse().expect("an IP address"));
    let equal = Condition::equal;
    let mut all = Vec::new();
    for (field, right, wrong) in [
        (Field::App, path(&end.app), path("/bin/true")),
        (Field::CurrentApp, path(&end.app), path("/bin/true")),
        (
            Field::User,
            Value::Uint(own_user.into()),
            Value::Uint(UNKNOWN_USER),
        ),
        (
            Field::CurrentUser,
            Value::Uint(own_user.into()),
            Value::Uint(UNKNOWN_USER),
        ),
        (Field::Cgroup, path(&end.cgroup), path(root)),
        (Field::CurrentCgroup, path(&end.cgroup), path(root)),
        (
            Field::LocalAddress,
            Value::Address(end.local.ip()),
            elsewhere(),
        ),
        (
            Field::LocalPort,
            Value::Uint(end.local.port().into()),
            Value::Uint(1),
        ),
        (
            Field::LocalAddressType,
            Value::Uint(address_type::LOOPBACK),
            Value::Uint(address_type::UNICAST),
        ),
        (
            Field::Protocol,
            Value::Uint(end.protocol),
            Value::Uint(TCP + UDP - end.protocol),
        ),
    ] {
        all.push((equal(field, right), equal(field, wrong)));
    }
    if let Some(remote) = end.remote {
        all.extend(conditions_on_remote(remote, elsewhere()));
    }
    for field in [Field::Cgroup, Field::CurrentCgroup] {
        let (above, other) = (path(root), path(&format!("{root}/other")));
        all.push((
            with(field, MatchType::Prefix, above),
            with(field, MatchType::Prefix, other),
        ));
    }
    let netns = |match_type| with(Field::Netns, match_type, Value::Uint(netns::cookie()));
    all.push((netns(MatchType::Equal), netns(MatchType::NotEqual)));
    all
}

fn conditions_on_remote(remote: SocketAddr, elsewhere: Value) -> [(Condition, Condition); 4] {
    let pair = |field, right, wrong| {
        let equal = Condition::equal;
        (equal(field, right), equal(field, wrong))
    };
    let flag = |bit| with(Field::Flags, MatchType::FlagsAllSet, Value::Uint(bit));
    [
        pair(Field::RemoteAddress, Value::Address(remote.ip()), elsewhere),
        pair(
            Field::RemotePort,
            Value::Uint(remote.port().into()),
            Value::Uint(1),
        ),
        pair(
            Field::DestinationAddressType,
            Value::Uint(address_type::LOOPBACK),
            Value::Uint(address_type::MULTICAST),
        ),
        (flag(flags::LOOPBACK), flag(flags::PROXY_CONNECTION)),
    ]
}

/// Inspect filters, each with one condition, and the layers and ids of those that must report an event.
struct Inspectors {
    filters: Vec<Filter>,
    expected: BTreeSet<(String, u64)>,
}

impl Inspectors {
    fn add(&mut self, layer: Layer, right: Condition, wrong: Condition) {
        let next = self.filters.len() as u64 + 1;
        for (id, condition) in [(next, right), (next + 1, wrong)] {
            let filter = Filter {
                id,
                conditions: vec![condition],
                weight: Weight::Literal(id),
                ..Filter::new("inspector", layer, Action::Inspect)
            };
            filter.check().expect("the filter is valid");
            self.filters.push(filter);
        }
        self.expected.insert((layer.to_string(), next));
    }

    fn add_endpoint(&mut self, family: Family, kinds: &[LayerKind], end: &Endpoint) {
        for &kind in kinds {
            for (right, wrong) in conditions(end) {
                // Before bind the other end is not known, so the flag LOOPBACK is not set.
                let has_value = right.field.is_at(kind)
                    && !(kind == LayerKind::BindRedirect && right.field == Field::Flags);
                if has_value {
                    self.add(Layer { kind, family }, right, wrong);
                }
            }
        }
    }
}

/// Commits inspectors for both ends, lets the ends communicate, and checks the reported events.
fn every_field_of_every_layer(test: &str, protocol: u64, client: &str, server: &str) {
    use LayerKind::{
        AuthConnect, AuthRecvAccept, BindRedirect, ConnectRedirect, EndpointClosure,
        FlowEstablished,
    };
    netns::enter();
    let mut host = Host::new(test);
    let (client, server): (SocketAddr, SocketAddr) =
        (client.parse().unwrap(), server.parse().unwrap());
    let family = Family::of(client.ip());
    let below = format!("/e2e-{test}");
    let exe = std::env::current_exe()
        .expect("the test's executable has a path")
        .display()
        .to_string();
    let program = Endpoint {
        app: client_binary().display().to_string(),
        cgroup: format!("{below}/program"),
        protocol,
        local: client,
        remote: Some(server),
    };
    let mut origin = Endpoint {
        app: exe,
        cgroup: format!("{below}/service"),
        protocol,
        local: server,
        remote: Some(client),
    };
    let mut inspectors = Inspectors {
        filters: Vec::new(),
        expected: BTreeSet::new(),
    };
    let outbound = [
        BindRedirect,
        ConnectRedirect,
        AuthConnect,
        FlowEstablished,
        EndpointClosure,
    ];
    inspectors.add_endpoint(family, &outbound, &program);
    inspectors.add_endpoint(family, &[AuthRecvAccept, FlowEstablished], &origin);
    if protocol == UDP {
        origin.remote = None; // its socket has no single peer
    }
    inspectors.add_endpoint(family, &[EndpointClosure], &origin);
    for inbound in [0, 1] {
        let direction = |value| Condition::equal(Field::Direction, Value::Uint(value));
        let layer = Layer {
            kind: FlowEstablished,
            family,
        };
        inspectors.add(layer, direction(inbound), direction(7));
    }
    host.engine()
        .commit(&inspectors.filters, &[])
        .expect("the policy is valid");
    match protocol {
        TCP => connect_and_close(&mut host, client, server),
        _ => exchange_datagrams(&mut host, client, server),
    }
    await_events(&mut host, &inspectors);
}

fn connect_and_close(host: &mut Host, client: SocketAddr, server: SocketAddr) {
    let listener = TcpListener::bind(server).expect("the address is free");
    let accepting = thread::spawn(move || {
        listener.accept().expect("the client connects"); // the accepted socket is closed at once
    });
    let (server, client) = (server.to_string(), client.to_string());
    let report = host.client(&["connect", &server, "--bind", &client]).json();
    assert_eq!(report["errno"], serde_json::Value::Null, "{report}");
    accepting.join().expect("the connection was accepted");
}

fn exchange_datagrams(host: &mut Host, client: SocketAddr, server: SocketAddr) {
    let socket = UdpSocket::bind(server).expect("the address is free");
    let answering = thread::spawn(move || answer_once(&socket));
    let (server, client) = (server.to_string(), client.to_string());
    let report = host
        .client(&["datagrams", &server, "--bind", &client, "--connected"])
        .json();
    assert_eq!(report["reply"], server, "{report}");
    answering.join().expect("the datagram was answered");
}

fn answer_once(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram arrives");
    socket
        .send_to(&buffer[..length], from)
        .expect("the answer is sent");
}

/// Waits until all filters that must match have reported an event. No other may have.
fn await_events(host: &mut Host, inspectors: &Inspectors) {
    let mut seen = BTreeSet::new();
    wait::until("all filters that must match have reported an event", || {
        for event in host
            .engine()
            .events(Duration::from_millis(1))
            .expect("events are readable")
        {
            if event.kind == EventKind::Inspected {
                let layer = event.layer.expect("the event has a layer");
                seen.insert((layer.to_string(), event.filter_id));
            }
        }
        inspectors.expected.is_subset(&seen)
    });
    let names: Vec<_> = seen
        .difference(&inspectors.expected)
        .map(|(layer, id)| {
            let filter = &inspectors.filters[*id as usize - 1];
            format!("{layer}: {}", filter.conditions[0])
        })
        .collect();
    // Flow established and endpoint closure are classified at both ends. There, the wrong value of
    // one end may be the right value of the other.
    let wrong: Vec<_> = names
        .iter()
        .filter(|name| {
            !name.contains("cgroup") || !name.contains("flow") && !name.contains("closure")
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "filters matched although their conditions do not hold: {wrong:?}"
    );
}

#[test]
fn every_field_of_every_layer_has_the_right_value_over_ipv4() {
    every_field_of_every_layer("layers4", TCP, "127.0.0.5:45001", "127.0.0.1:8080");
}

#[test]
fn every_field_of_every_layer_has_the_right_value_over_ipv6() {
    every_field_of_every_layer("layers6", TCP, "[::1]:45001", "[::1]:8080");
}

#[test]
fn every_field_of_every_layer_has_the_right_value_for_datagrams_over_ipv4() {
    every_field_of_every_layer("layers4_udp", UDP, "127.0.0.5:45001", "127.0.0.1:8080");
}

#[test]
fn every_field_of_every_layer_has_the_right_value_for_datagrams_over_ipv6() {
    every_field_of_every_layer("layers6_udp", UDP, "[::1]:45001", "[::1]:8080");
}

/// Starts a server that closes each connection at once.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("the address is free");
    thread::spawn(move || listener.incoming().for_each(drop));
}

/// Waits for an event of this filter.
fn await_filter(host: &mut Host, filter_id: u64) -> Event {
    let mut found = None;
    wait::until("the filter's event", || {
        let events = host.engine().events(Duration::from_millis(1));
        found = events
            .expect("events are readable")
            .into_iter()
            .find(|event| event.filter_id == filter_id);
        found.is_some()
    });
    found.expect("the event was found")
}

/// Commits one filter without conditions, at the IPv4 and the IPv6 layer of this kind.
fn commit_for_all(host: &mut Host, kind: LayerKind, action: Action) {
    let filters = kind.both().map(|layer| Filter {
        id: kind as u64 + 1,
        ..Filter::new("all", layer, action)
    });
    host.engine()
        .commit(&filters, &[])
        .expect("the policy is valid");
}

#[test]
fn block_at_each_layer_refuses_and_is_reported() {
    netns::enter();
    let mut host = Host::new("layers_block");
    serve("127.0.0.1:8080");
    let to = "127.0.0.1:8080";
    for kind in [LayerKind::ConnectRedirect, LayerKind::AuthConnect] {
        commit_for_all(&mut host, kind, Action::Block);
        let report = host.connect(to);
        assert_eq!(report["errno"], libc::EACCES, "{kind:?}: {report}");
        let event = await_filter(&mut host, kind as u64 + 1);
        assert_eq!(event.kind, EventKind::Blocked);
        assert_eq!(event.layer.map(|layer| layer.kind), Some(kind));
    }
    commit_for_all(&mut host, LayerKind::BindRedirect, Action::Block);
    let refused = TcpListener::bind("127.0.0.1:8081").expect_err("the bind is blocked");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    commit_for_all(&mut host, LayerKind::AuthRecvAccept, Action::Block);
    let before = host.count(Counter::Blocked);
    let address = to.parse().expect("an address and a port");
    let dropped = TcpStream::connect_timeout(&address, SYN_WAIT).expect_err("the SYN is dropped");
    assert_eq!(dropped.kind(), std::io::ErrorKind::TimedOut);
    assert!(host.count(Counter::Blocked) > before);
    commit_for_all(&mut host, LayerKind::AuthRecvAccept, Action::Permit);
    TcpStream::connect(to).expect("the connect is permitted");
}

#[test]
fn case_139_hard_permit_overrules_a_block_but_not_a_veto() {
    netns::enter();
    let mut host = Host::new("case139");
    serve("127.0.0.1:8080");
    let [layer, _] = LayerKind::AuthConnect.both();
    let of = |sublayer, id, action| Filter {
        id,
        sublayer: Uuid::from_u128(sublayer),
        clear_action_right: action == Action::Permit,
        ..Filter::new("f", layer, action)
    };
    let sublayers = [sublayer(1, 20), sublayer(2, 10)];
    let filters = [of(1, 1, Action::Permit), of(2, 2, Action::Block)];
    host.engine()
        .commit(&filters, &sublayers)
        .expect("the policy is valid");
    assert_eq!(
        host.connect("127.0.0.1:8080")["errno"],
        serde_json::Value::Null
    );
    let filters = [of(1, 1, Action::Permit), of(2, 2, Action::Veto)];
    host.engine()
        .commit(&filters, &sublayers)
        .expect("the policy is valid");
    assert_eq!(host.connect("127.0.0.1:8080")["errno"], libc::EACCES);
    assert_eq!(await_filter(&mut host, 2).kind, EventKind::Vetoed);
    assert_eq!(host.count(Counter::Vetoed), 1);
}
