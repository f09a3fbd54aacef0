//! A property test: the kernel redirects connections as the reference in the engine's module
//! `filter` says.

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;

use e2e::{Client, Host, copy_both_ways, listen_marked, netns};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sidetrack_engine::filter::reference;
use sidetrack_engine::{Absent, Filter, Service};

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

/// The numbers of services without a listener for this destination.
fn absent(services: &[Service], to: SocketAddr) -> Vec<u32> {
    let listens = |addresses: &[&str]| {
        let same_family = |address: &&str| address.starts_with('[') == to.is_ipv6();
        addresses.iter().any(same_family)
    };
    let with_addresses = services.iter().zip(SERVICES);
    with_addresses
        .filter(|(_, (_, addresses))| !listens(addresses))
        .map(|(service, _)| service.number)
        .collect()
}

/// What a client must read according to the reference: the names of the services in order, and then
/// `origin` or `refused`.
fn expected(filters: &[Filter], services: &[Service], to: SocketAddr) -> String {
    let absent = absent(services, to);
    let (mut seen, mut reply) = (Vec::new(), String::new());
    while let Some(index) = reference(filters, to, &seen, &absent) {
        let number = filters[index].service;
        if absent.contains(&number) {
            return reply + "refused";
        }
        seen.push(number);
        reply += SERVICES[number as usize - 1].0;
        reply.push(' ');
    }
    reply + "origin"
}

/// A proxy that sends its service's name to the client, and then relays.
fn serve(service: &Service, name: &'static str, addresses: &[&str]) {
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

fn filter() -> impl Strategy<Value = Filter> {
    let ports = (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let on_absent = prop_oneof![Just(Absent::Block), Just(Absent::Permit)];
    (
        1..=SERVICES.len() as u32,
        prop::option::of(prefix()),
        prop::option::of(ports),
        on_absent,
    )
        .prop_map(|(service, remote, ports, on_absent)| Filter {
            remote,
            ports,
            on_absent,
            ..Filter::redirect_all(service)
        })
}

/// A host with the services, and a client that connects to one destination after another.
struct TestHost {
    host: Host,
    services: Vec<Service>,
    client: Client,
}

impl TestHost {
    fn start() -> Self {
        netns::enter();
        serve_origins();
        let mut host = Host::new("matcher");
        let services: Vec<_> = SERVICES.map(|(name, _)| host.service(name)).into();
        for (service, (name, addresses)) in services.iter().zip(SERVICES) {
            serve(service, name, addresses);
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
    let policy = prop::collection::vec(filter(), 0..12);
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
        .run(&(policy, destinations), |(filters, destinations)| {
            let mut test_host = test_host.borrow_mut();
            test_host.host.set_policy(&filters);
            for to in destinations {
                let expected = expected(&filters, &test_host.services, to);
                prop_assert_eq!(test_host.connect(to), expected, "{}", to);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
