//! The kernel decides as the reference in the engine's filter module says.

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;

use e2e::{Client, Host, both_ways, listen_by_hand, netns};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sidetrack_engine::filter::reference;
use sidetrack_engine::{Absent, Filter, Service};

/// With the ends of the range, and neighbours.
const PORTS: [u16; 7] = [1, 79, 80, 81, 443, 65534, 65535];

/// Two full services, one with IPv4 alone, one with IPv6 alone, one with no listener.
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
        let same = |at: &&str| at.starts_with('[') == to.is_ipv6();
        addresses.iter().any(same)
    };
    let named = services.iter().zip(SERVICES);
    named
        .filter(|(_, (_, addresses))| !listens(addresses))
        .map(|(service, _)| service.number)
        .collect()
}

/// What a connection meets by the reference: services in order, then its end.
fn expected(filters: &[Filter], services: &[Service], to: SocketAddr) -> String {
    let absent = absent(services, to);
    let (mut seen, mut told) = (Vec::new(), String::new());
    while let Some(index) = reference(filters, to, &seen, &absent) {
        let number = filters[index].service;
        if absent.contains(&number) {
            return told + "refused";
        }
        seen.push(number);
        told += SERVICES[number as usize - 1].0;
        told.push(' ');
    }
    told + "origin"
}

/// A proxy that says its name, and goes on.
fn serve(service: &Service, name: &'static str, addresses: &[&str]) {
    for address in addresses {
        let listener = listen_by_hand(service, address, 64);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let flow = sidetrack::query(&stream).expect("every socket answers");
                write!(stream, "{name} ").expect("the client reads");
                match flow.connect() {
                    Ok(onward) => thread::spawn(move || both_ways(stream, onward)),
                    Err(_) => thread::spawn(move || stream.write_all(b"refused")),
                };
            }
        });
    }
}

/// Answers at every address and port that is tried.
fn serve_origins() {
    netns::ip("route add local 10.0.0.0/8 dev lo");
    netns::ip("-6 route add local fd00::/8 dev lo");
    for port in PORTS {
        let listener = TcpListener::bind(("::", port)).expect("nobody else is here");
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
        IpNet::new(address, length).expect("it is short enough")
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

struct Stage {
    host: Host,
    services: Vec<Service>,
    program: Client,
}

impl Stage {
    fn set() -> Self {
        netns::enter();
        serve_origins();
        let mut host = Host::new("matcher");
        let services: Vec<_> = SERVICES.map(|(name, _)| host.service(name)).into();
        for (service, (name, addresses)) in services.iter().zip(SERVICES) {
            serve(service, name, addresses);
        }
        let program = host.client(&["ask"]);
        Self {
            host,
            services,
            program,
        }
    }

    fn ask(&mut self, to: SocketAddr) -> String {
        self.program.tell(&to.to_string());
        let told = self.program.line();
        match told["errno"].as_i64() {
            Some(errno) if errno == i64::from(libc::ECONNREFUSED) => "refused".to_owned(),
            _ => told["reply"]
                .as_str()
                .unwrap_or(&told.to_string())
                .to_owned(),
        }
    }
}

#[test]
fn kernel_decides_as_the_reference_does() {
    let stage = RefCell::new(Stage::set());
    let policy = prop::collection::vec(filter(), 0..12);
    let destinations = prop::collection::vec(destination(), 20);
    let mut runner = TestRunner::new(Config {
        cases: 500,
        // A runner that is made without the macro `proptest!` does not know its source file, and would
        // save nothing. A failing case is saved in the file of the same name next to this one.
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        max_shrink_iters: 2000,
        ..Config::default()
    });
    runner
        .run(&(policy, destinations), |(filters, destinations)| {
            let mut stage = stage.borrow_mut();
            stage.host.set_policy(&filters);
            for to in destinations {
                let want = expected(&filters, &stage.services, to);
                prop_assert_eq!(stage.ask(to), want, "{}", to);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
