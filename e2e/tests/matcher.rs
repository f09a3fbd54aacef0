//! A property test on real connections and datagrams: the kernel redirects them as the reference of
//! `sidetrack-policy` says. policy.rs has the test of all layers and fields.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;

use e2e::{Client, Host, copy_both_ways, listen_marked, netns, sdk_service, wait};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sidetrack::{Batch, DatagramListener, Flow};
use sidetrack_engine::{Paths, RegisteredService, ServiceSpec};
use sidetrack_policy::field_values::{FieldValues, Program};
use sidetrack_policy::rank::{RankedFilter, order};
use sidetrack_policy::redirect::{Protocol, Redirect, in_order};
use sidetrack_policy::reference::{ServiceStates, classify};
use sidetrack_policy::{
    Absent, ConnectMode, Family, Identity, Layer, LayerKind, Lifetime, Listeners, RecordsMode,
    RedirectContext, Uuid, absent_services,
};

/// Ports, among them the ends of the range and their neighbours.
const PORTS: [u16; 7] = [1, 79, 80, 81, 443, 65534, 65535];

/// Services with the addresses of their TCP listeners, and whether they have UDP sockets, for both
/// families: for each protocol and family, some listen and some do not.
const SERVICES: [(&str, &[&str], bool); 5] = [
    ("a", &["0.0.0.0:0", "[::1]:0"], true),
    ("b", &["0.0.0.0:0", "[::1]:0"], false),
    ("four", &["127.0.0.1:0"], false),
    ("six", &["[::1]:0"], true),
    ("gone", &[], false),
];

/// The key of the service with this number.
fn key(number: u16) -> Uuid {
    Uuid::from_u128(number.into())
}

/// What a client must read according to the reference: the names of the services in order, and then
/// `origin` or `refused`.
fn expected(
    ranked: &[RankedFilter<'_>],
    paths: &Paths,
    listeners: &[(u16, Listeners)],
    (protocol, to): (Protocol, SocketAddr),
) -> String {
    let unbound = match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let field_values = FieldValues {
        layer: Layer {
            kind: LayerKind::ConnectRedirect,
            family: Family::of(to.ip()),
        },
        program: Program::default(),
        current: Program::default(),
        local: unbound.parse().expect("an address"),
        remote: to,
        protocol: protocol as u8,
        netns: 0,
        inbound: false,
        redirected: false,
        proxied: false,
    };
    let mut states = ServiceStates {
        absent: absent_services(listeners.iter().copied(), &field_values),
        ..ServiceStates::default()
    };
    let mut reply = String::new();
    loop {
        let verdict = classify(ranked, paths, &field_values, &states);
        if verdict.blocked {
            return reply + "refused";
        }
        let Some(rank) = verdict.redirect else {
            return reply + "origin";
        };
        let number = ranked[rank as usize].service.expect("it redirects");
        states.seen.push(number);
        reply += SERVICES[usize::from(number) - 1].0;
        reply.push(' ');
    }
}

/// A proxy that sends its service's name to the client, and then relays.
fn serve(service: &RegisteredService, name: &'static str, addresses: &[&str]) {
    for address in addresses {
        let listener = listen_marked(service, address, 64);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let flow = sidetrack::query(&stream).expect("every socket answers");
                write!(stream, "{name} ").expect("the client reads");
                match flow.connect() {
                    Ok(outgoing) => thread::spawn(move || copy_both_ways(stream, outgoing)),
                    Err(_) => thread::spawn(move || stream.write_all(b"refused")),
                };
            }
        });
    }
}

/// A proxy for datagrams that puts its service's name in front of the answer.
fn serve_datagrams(service: &RegisteredService, name: &'static str) {
    let listener = DatagramListener::bind(&sdk_service(service)).expect("the sockets are marked");
    let listener = Arc::new(listener);
    thread::spawn(move || {
        let mut batch = Batch::new(16, 2048);
        loop {
            listener.receive(&mut batch).expect("receive works");
            for datagram in batch.iter() {
                let (listener, flow) = (Arc::clone(&listener), Arc::clone(datagram.flow()));
                thread::spawn(move || {
                    let answer = ask_onward(&flow).unwrap_or_else(|_| "refused".to_owned());
                    let _ = listener.answer(&flow, format!("{name} {answer}").as_bytes());
                });
            }
        }
    });
}

/// Sends a datagram on with the records, and returns the answer.
fn ask_onward(flow: &Flow) -> io::Result<String> {
    let to = flow.original_destination();
    let socket = flow.outgoing_datagrams(to).map_err(io::Error::other)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(wait::DEADLINE))?;
    socket.send_to(b"?", to)?;
    let mut answer = [0; 2048];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Starts origins that answer at every destination of the test.
fn serve_origins() {
    netns::ip("route add local 10.0.0.0/8 dev lo");
    netns::ip("-6 route add local fd00::/8 dev lo");
    for port in PORTS {
        let listener = TcpListener::bind(("::", port)).expect("the port is free");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                stream.write_all(b"origin").expect("the client reads");
            }
        });
        let socket = UdpSocket::bind(("::", port)).expect("the port is free");
        thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(b"origin", from); // the sender may have ended
            }
        });
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..3_u8, 0..3_u8, 1..4_u8).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c]));
    let v6 = (0..3_u16, 0..3_u16, 1..4_u16)
        .prop_map(|(a, b, c)| IpAddr::from([0xfd00, a, 0, 0, b, 0, 0, c]));
    prop_oneof![v4, v6]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn destination() -> impl Strategy<Value = (Protocol, SocketAddr)> {
    let address = (address(), prop::sample::select(&PORTS[..])).prop_map(SocketAddr::from);
    (protocol(), address)
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128_u8).prop_map(|(address, length)| {
        let length = if address.is_ipv4() {
            length / 4
        } else {
            length
        };
        IpNet::new(address, length).expect("the length suits the family")
    })
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), prop::sample::select(&PORTS[..]), any::<u16>()]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let ports = (port(), port()).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let on_absent = prop_oneof![Just(Absent::Block), Just(Absent::Permit)];
    (
        (protocol(), 1..=SERVICES.len() as u16),
        prop::option::of(prefix()),
        prop::option::of(ports),
        on_absent,
    )
        .prop_map(|((protocol, service), remote, ports, on_absent)| {
            let all = Redirect::new(protocol, key(service)).on_absent(on_absent);
            let at_ports = match ports {
                Some(ports) => all.ports(ports),
                None => all,
            };
            match remote {
                Some(prefix) => at_ports.remote(prefix),
                None => at_ports,
            }
        })
}

/// The service of a number, as an object.
fn object(number: u16, name: &str) -> sidetrack_policy::Service {
    sidetrack_policy::Service {
        identity: Identity {
            key: key(number),
            name: name.to_owned(),
            description: String::new(),
        },
        lifetime: Lifetime::Static,
        provider: None,
        records: RecordsMode::Required,
        records_bound: false,
        connect: ConnectMode::Accepted,
        on_absent: Absent::Block,
        context: RedirectContext::None,
    }
}

/// A host with the services, and a client that connects to one destination after another.
struct TestHost {
    host: Host,
    services: Vec<sidetrack_policy::Service>,
    /// The listeners that the kernel has counted, by the number of the service.
    listeners: Vec<(u16, Listeners)>,
    client: Client,
}

impl TestHost {
    fn start() -> Self {
        netns::enter();
        serve_origins();
        let mut host = Host::new("matcher");
        let mut services = Vec::new();
        let mut listeners = Vec::new();
        for (number, (name, addresses, has_udp)) in (1..).zip(SERVICES) {
            let object = object(number, name);
            let service = host.service_with_spec(&ServiceSpec::of_object(&object));
            assert_eq!(service.number, u32::from(number));
            serve(&service, name, addresses);
            if has_udp {
                serve_datagrams(&service, name);
            }
            let counted = host.engine().listeners(&service);
            listeners.push((number, counted.expect("the map is readable")));
            services.push(object);
        }
        let client = host.client(&["connect-each"]);
        Self {
            host,
            services,
            listeners,
            client,
        }
    }

    /// Connects or sends to a destination, and returns what the client read, or `refused`.
    fn connect(&mut self, (protocol, to): (Protocol, SocketAddr)) -> String {
        self.client.send_line(&match protocol {
            Protocol::Udp => format!("udp {to}"),
            _ => to.to_string(),
        });
        let report = self.client.json_line();
        match report["errno"].as_i64() {
            Some(errno) if errno == i64::from(libc::ECONNREFUSED) => "refused".to_owned(),
            _ => report["reply"]
                .as_str()
                .unwrap_or(&report.to_string())
                .to_owned(),
        }
    }
}

#[test]
fn kernel_decides_as_the_reference_does() {
    let test_host = RefCell::new(TestHost::start());
    let paths = Paths::new().expect("cgroup v2 is mounted");
    let policy = prop::collection::vec(redirect(), 0..12);
    let destinations = prop::collection::vec(destination(), 20);
    let mut runner = TestRunner::new(Config {
        cases: 500,
        // A runner that is made without the macro `proptest!` does not know its source file, and
        // would save no failing case. They are saved next to this file, in
        // matcher.proptest-regressions.
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        max_shrink_iters: 2000,
        ..Config::default()
    });
    runner
        .run(&(policy, destinations), |(redirects, destinations)| {
            let mut test_host = test_host.borrow_mut();
            let filters = in_order(redirects);
            test_host.host.commit(&filters, &[]);
            for to in destinations {
                let services = (1..).zip(&test_host.services);
                let ranked = order(&filters, &[], services).expect("all services exist");
                let expected = expected(&ranked, &paths, &test_host.listeners, to);
                prop_assert_eq!(test_host.connect(to), expected, "{:?}", to);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
