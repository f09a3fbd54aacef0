//! A property test on real connections: the kernel redirects them as the reference of
//! `sidetrack-policy` says. policy.rs has the test of all layers and fields.

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;

use e2e::{Client, Host, copy_both_ways, listen_marked, netns};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sidetrack_engine::{Paths, RegisteredService, ServiceSpec};
use sidetrack_policy::field_values::{FieldValues, Program};
use sidetrack_policy::rank::{RankedFilter, order};
use sidetrack_policy::redirect::{Protocol, Redirect, in_order};
use sidetrack_policy::reference::{ServiceStates, classify};
use sidetrack_policy::{
    Absent, Family, Identity, Layer, LayerKind, Lifetime, RecordsMode, RedirectContext, Uuid,
};

/// Ports, among them the ends of the range and their neighbours.
const PORTS: [u16; 7] = [1, 79, 80, 81, 443, 65534, 65535];

/// Services with the addresses of their listeners: two with both families, one with IPv4 only, one
/// with IPv6 only, and one without a listener.
const SERVICES: [(&str, &[&str]); 5] = [
    ("a", &["0.0.0.0:0", "[::1]:0"]),
    ("b", &["0.0.0.0:0", "[::1]:0"]),
    ("four", &["127.0.0.1:0"]),
    ("six", &["[::1]:0"]),
    ("gone", &[]),
];

/// The key of the service with this number.
fn key(number: u16) -> Uuid {
    Uuid::from_u128(number.into())
}

/// The numbers of services without a listener for this destination.
fn absent(to: SocketAddr) -> Vec<u16> {
    let listens = |addresses: &[&str]| {
        let same_family = |address: &&str| address.starts_with('[') == to.is_ipv6();
        addresses.iter().any(same_family)
    };
    let numbered = (1..).zip(SERVICES);
    numbered
        .filter(|(_, (_, addresses))| !listens(addresses))
        .map(|(number, _)| number)
        .collect()
}

/// What a client must read according to the reference: the names of the services in order, and then
/// `origin` or `refused`.
fn expected(ranked: &[RankedFilter<'_>], paths: &Paths, to: SocketAddr) -> String {
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
        protocol: Protocol::Tcp as u8,
        netns: 0,
        inbound: false,
        redirected: false,
        proxied: false,
    };
    let mut states = ServiceStates {
        absent: absent(to),
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
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..3_u8, 0..3_u8, 1..4_u8).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c]));
    let v6 = (0..3_u16, 0..3_u16, 1..4_u16)
        .prop_map(|(a, b, c)| IpAddr::from([0xfd00, a, 0, 0, b, 0, 0, c]));
    prop_oneof![v4, v6]
}

fn destination() -> impl Strategy<Value = SocketAddr> {
    (address(), prop::sample::select(&PORTS[..])).prop_map(SocketAddr::from)
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
        1..=SERVICES.len() as u16,
        prop::option::of(prefix()),
        prop::option::of(ports),
        on_absent,
    )
        .prop_map(|(service, remote, ports, on_absent)| {
            let all = Redirect::tcp(key(service)).on_absent(on_absent);
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
        on_absent: Absent::Block,
        context: RedirectContext::None,
    }
}

/// A host with the services, and a client that connects to one destination after another.
struct TestHost {
    host: Host,
    services: Vec<sidetrack_policy::Service>,
    client: Client,
}

impl TestHost {
    fn start() -> Self {
        netns::enter();
        serve_origins();
        let mut host = Host::new("matcher");
        let mut services = Vec::new();
        for (number, (name, addresses)) in (1..).zip(SERVICES) {
            let object = object(number, name);
            let service = host.service_with_spec(&ServiceSpec::of_object(&object));
            assert_eq!(service.number, u32::from(number));
            serve(&service, name, addresses);
            services.push(object);
        }
        let client = host.client(&["connect-each"]);
        Self {
            host,
            services,
            client,
        }
    }

    /// Connects to a destination, and returns what the client read, or `refused`.
    fn connect(&mut self, to: SocketAddr) -> String {
        self.client.send_line(&to.to_string());
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
                let expected = expected(&ranked, &paths, to);
                prop_assert_eq!(test_host.connect(to), expected, "{}", to);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
