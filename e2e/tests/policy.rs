//! A property test: the kernel classifies every connection as the reference does, at all layers,
//! with all fields and all actions.
//!
//! The kernel's classification runs on field values that the test generates. layers.rs tests that
//! the hooks read the right values. Each connection is classified twice: with states of the
//! services that the test generates, and with those that follow from the services' listeners.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use e2e::{Host, listen_marked, mark};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sidetrack_engine::{Paths, RegisteredService, ServiceSpec};
use sidetrack_policy::field::{FieldType, flags};
use sidetrack_policy::field_values::{FieldValues, FileId, Host as _, Program};
use sidetrack_policy::rank::{RankedFilter, order};
use sidetrack_policy::reference::{ServiceStates, classify};
use sidetrack_policy::{
    Absent, Action, Condition, ConnectMode, Family, Field, Filter, Identity, Layer, Lifetime,
    Listeners, MatchType, RecordsMode, Service, Sublayer, Uuid, Value, Weight, absent_services,
};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// Number of policies.
const POLICIES: u32 = 1500;
/// Number of connections for each policy.
const CONNECTIONS: usize = 20;

const V4: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.1.2.3", "127.0.0.1", "0.0.0.0"];
const V6: [&str; 5] = ["fd00::1", "fd00::2", "fd00:1::3", "::1", "::"];
const V4_PREFIXES: [&str; 5] = [
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "0.0.0.0/0",
    "128.0.0.0/1",
];
const V6_PREFIXES: [&str; 5] = ["fd00::/16", "fd00::/64", "fd00::1/128", "::/0", "8000::/1"];
const NUMBERS: [u64; 5] = [0, 1, 6, 80, 255];
const APPS: [&str; 3] = ["curl", "wget", "missing"];
const CGROUPS: [&str; 5] = ["", "a", "a/b", "c", "missing"];

fn addresses(layer: Layer) -> [&'static str; 5] {
    if layer.family == Family::V4 { V4 } else { V6 }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// The executables and cgroups that the policies name.
struct TestPaths {
    folder: TempDir,
    cgroup: String,
}

impl TestPaths {
    fn app(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn cgroup(&self, name: &str) -> String {
        format!("{}/{name}", self.cgroup)
    }

    /// Replaces the short names in generated conditions by full paths.
    fn expand(&self, filter: &mut Filter) {
        for condition in &mut filter.conditions {
            if let Value::Path(path) = &mut condition.value {
                *path = match condition.field.kind() {
                    FieldType::App => self.app(path),
                    _ => self.cgroup(path),
                };
            }
        }
    }
}

fn value(field: Field, layer: Layer, match_type: MatchType) -> BoxedStrategy<Value> {
    let single = move || match field.kind() {
        FieldType::App => select(&APPS[..])
            .prop_map(|app| Value::Path(app.into()))
            .boxed(),
        FieldType::Cgroup => select(&CGROUPS[..])
            .prop_map(|name| Value::Path(name.into()))
            .boxed(),
        FieldType::Address => select(addresses(layer).to_vec())
            .prop_map(|text| Value::Address(address(text)))
            .boxed(),
        FieldType::Uint(_) if field == Field::Flags => (0_u64..8)
            .prop_map(|bits| {
                let set = flags::NAMES.iter().enumerate();
                Value::Uint(set.map(|(index, (_, bit))| (bits >> index & 1) * bit).sum())
            })
            .boxed(),
        FieldType::Uint(_) => select(&NUMBERS[..]).prop_map(Value::Uint).boxed(),
    };
    let prefixes = if layer.family == Family::V4 {
        V4_PREFIXES
    } else {
        V6_PREFIXES
    };
    let prefix = select(prefixes.to_vec())
        .prop_map(|text| Value::Prefix(text.parse().expect("an address prefix")));
    match match_type {
        MatchType::Range => (single(), single())
            .prop_map(|(one, other)| {
                let swap = match (&one, &other) {
                    (Value::Uint(a), Value::Uint(b)) => a > b,
                    (Value::Address(a), Value::Address(b)) => a > b,
                    _ => false,
                };
                let (low, high) = if swap { (other, one) } else { (one, other) };
                Value::Range(Box::new(low), Box::new(high))
            })
            .boxed(),
        MatchType::Equal | MatchType::NotEqual if field.kind() == FieldType::Address => {
            prop_oneof![single(), prefix].boxed()
        }
        _ => single(),
    }
}

fn condition(layer: Layer) -> impl Strategy<Value = Condition> {
    let fields: Vec<_> = Field::ALL
        .into_iter()
        .filter(|field| field.is_at(layer.kind))
        .collect();
    (select(fields), select(&MatchType::ALL[..])).prop_flat_map(move |(field, match_type)| {
        value(field, layer, match_type).prop_map(move |value| Condition {
            field,
            match_type,
            value,
        })
    })
}

fn action(layer: Layer) -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Permit),
        1 => Just(Action::Block),
        1 => Just(Action::Veto),
        1 => Just(Action::Inspect),
        5 => (1..=4_u128).prop_map(|service| Action::Redirect(Uuid::from_u128(service))),
    ]
    .prop_filter("at this layer", move |action| action.is_at(layer.kind))
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        (0..4_u64).prop_map(Weight::Literal),
        (0..3_u8).prop_map(Weight::Class),
        Just(Weight::Auto),
    ]
}

/// A valid filter at one of these layers. Its paths are still short names.
fn filter(layers: Vec<Layer>) -> impl Strategy<Value = Filter> {
    select(layers)
        .prop_flat_map(|layer| {
            (
                Just(layer),
                action(layer),
                weight(),
                prop::collection::vec(condition(layer), 0..4),
                (0..4_u128, any::<bool>(), 0..10_u8, any::<Option<bool>>()),
                prop::option::weighted(0.3, select(&USERS[..])),
            )
        })
        .prop_map(
            |(
                layer,
                action,
                weight,
                conditions,
                (sublayer, clear, disabled, absent),
                only_user,
            )| Filter {
                only_user,
                weight,
                conditions,
                sublayer: if sublayer == 0 {
                    Uuid::nil()
                } else {
                    Uuid::from_u128(sublayer)
                },
                clear_action_right: clear,
                disabled: disabled == 0,
                on_absent: action.service().and(absent.map(|permit| {
                    if permit {
                        Absent::Permit
                    } else {
                        Absent::Block
                    }
                })),
                ..Filter::new("f", layer, action)
            },
        )
        .prop_filter("the filter is valid", |filter| {
            let mut filter = filter.clone();
            for condition in &mut filter.conditions {
                if let Value::Path(path) = &mut condition.value {
                    path.insert(0, '/');
                }
            }
            filter.check().is_ok()
        })
}

/// The users of programs, and those to whom filters are restricted.
const USERS: [u32; 3] = [0, 1, 6];

/// A program: its executable's short name, its user, and the index of its cgroup in CGROUPS.
type ShortProgram = (&'static str, u32, usize);

fn program() -> impl Strategy<Value = ShortProgram> {
    (select(&APPS[..]), select(&USERS[..]), 0..CGROUPS.len())
}

/// A connection at one layer: the original program, the current program, the indices of the local
/// and the remote address in V4 or V6, the ports, (protocol, network namespace, bits for direction,
/// flags, and whether the original program is elevated), and the states of the services.
type Connection = (
    Layer,
    ShortProgram,
    ShortProgram,
    [usize; 2],
    [u16; 2],
    (u8, u64, u8),
    ServiceStates,
);

fn connection(layers: Vec<Layer>) -> impl Strategy<Value = Connection> {
    let ports = select(vec![0_u16, 1, 6, 80, 255, 443]);
    let services = || prop::collection::vec(1..=4_u16, 0..3);
    (
        select(layers),
        program(),
        program(),
        [0..5_usize, 0..5],
        [ports.clone(), ports],
        (select(vec![6_u8, 17]), select(vec![0_u64, 1, 80]), 0..16_u8),
        (services(), services(), 0..12_u32, 0..8_u8).prop_map(|(seen, absent, rank, own)| {
            ServiceStates {
                seen,
                absent,
                legacy_min_rank: rank.saturating_sub(6), // often 0, which is none
                own_traffic: own == 0,
            }
        }),
    )
}

fn field_values(
    connection: &Connection,
    test_paths: &TestPaths,
    paths: &Paths,
    cgroups: &HashMap<usize, Vec<u64>>,
) -> FieldValues {
    let (layer, original, current, ends, ports, (protocol, netns, bits), _) = connection;
    let program = |(app, user, cgroup): &ShortProgram, elevated| Program {
        app: paths.file(&test_paths.app(app)).unwrap_or(FileId {
            device: 9,
            inode: 9,
        }),
        user: *user,
        cgroups: cgroups.get(cgroup).cloned().unwrap_or_default(),
        elevated,
    };
    let end = |index: usize, port| SocketAddr::new(address(addresses(*layer)[index]), port);
    FieldValues {
        layer: *layer,
        program: program(original, bits & 8 == 8),
        current: program(current, false),
        local: end(ends[0], ports[0]),
        remote: end(ends[1], ports[1]),
        protocol: *protocol,
        netns: *netns,
        inbound: bits & 1 == 1,
        redirected: bits & 2 == 2,
        proxied: bits & 4 == 4,
    }
}

/// The local addresses of each service's listeners for TCP, and for UDP.
const LISTENERS: [[&[&str]; 2]; 4] = [
    [&["127.0.0.1:0"], &["[::]:0"]],
    [&["[::1]:0"], &["0.0.0.0:0"]],
    [&["0.0.0.0:0", "[::1]:0"], &[]],
    [&[], &["0.0.0.0:0", "[::]:0"]],
];

/// Opens the listeners of a service.
fn listen(service: &RegisteredService, [tcp, udp]: [&[&str]; 2]) -> Vec<OwnedFd> {
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for address in tcp {
        sockets.push(listen_marked(service, address, 1).into());
    }
    for address in udp {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None);
        let socket = socket.expect("a socket");
        if address.is_ipv6() {
            socket.set_only_v6(true).expect("the option is set");
        }
        socket.bind(&address.into()).expect("a port is free");
        assert_eq!(mark(&socket, service), 0, "the socket is marked");
        sockets.push(socket.into());
    }
    sockets
}

/// A host with the services, sublayers, executables and cgroups that the policies name.
struct TestHost {
    host: Host,
    test_paths: TestPaths,
    services: Vec<Service>,
    /// The listeners that the kernel has counted, by the number of the service.
    listeners: Vec<(u16, Listeners)>,
    /// The services' sockets, which are open as long as the test runs.
    _sockets: Vec<OwnedFd>,
    sublayers: Vec<Sublayer>,
    /// For the index of each cgroup of CGROUPS that exists: its number, after those of the cgroups
    /// above it.
    cgroups: HashMap<usize, Vec<u64>>,
}

fn identity(key: u128, name: &str) -> Identity {
    Identity {
        key: Uuid::from_u128(key),
        name: name.to_owned(),
        description: String::new(),
    }
}

impl TestHost {
    fn start() -> Self {
        let mut host = Host::new("policy");
        let folder = tempfile::tempdir().expect("a temporary folder");
        for app in &APPS[..2] {
            fs::write(folder.path().join(app), "").expect("the file is written");
        }
        let root = host
            .root()
            .path()
            .file_name()
            .expect("the cgroup has a name");
        let test_paths = TestPaths {
            folder,
            cgroup: format!("/{}", root.to_string_lossy()),
        };
        let mut cgroups = HashMap::new();
        for (index, name) in CGROUPS
            .iter()
            .enumerate()
            .filter(|(_, name)| **name != "missing")
        {
            let path = host.root().path().join(name);
            let _ = fs::create_dir(path); // the first one exists
            let paths = Paths::new().expect("cgroup v2 is mounted");
            let parts: Vec<_> = name.split('/').filter(|part| !part.is_empty()).collect();
            let above = (0..=parts.len()).map(|depth| test_paths.cgroup(&parts[..depth].join("/")));
            let ids = above.map(|path| paths.cgroup(&path).expect("the cgroup exists").id);
            cgroups.insert(index, ids.collect());
        }
        let services: Vec<_> = (1..=4)
            .map(|key| Service {
                identity: identity(key, &format!("s{key}")),
                lifetime: Lifetime::Static,
                provider: None,
                records: RecordsMode::Required,
                records_bound: false,
                connect: ConnectMode::Accepted,
                on_absent: if key % 2 == 0 {
                    Absent::Permit
                } else {
                    Absent::Block
                },
                context: sidetrack_policy::RedirectContext::None,
            })
            .collect();
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for (service, addresses) in services.iter().zip(LISTENERS) {
            let service = host.service_with_spec(&ServiceSpec::of_object(service));
            sockets.extend(listen(&service, addresses));
            let counted = host.engine().listeners(&service);
            listeners.push((service.number as u16, counted.expect("the map is readable")));
        }
        let sublayers = (1..=3)
            .map(|key| Sublayer {
                identity: identity(key, "sublayer"),
                lifetime: Lifetime::Static,
                provider: None,
                weight: if key == 3 { 2 } else { key as u16 },
            })
            .collect();
        Self {
            host,
            test_paths,
            services,
            listeners,
            _sockets: sockets,
            sublayers,
            cgroups,
        }
    }

    /// The states of the services for a connection, as they follow from their listeners.
    fn real_states(&self, field_values: &FieldValues) -> ServiceStates {
        ServiceStates {
            absent: absent_services(self.listeners.iter().copied(), field_values),
            ..ServiceStates::default()
        }
    }

    fn ranked<'a>(&'a self, filters: &'a [Filter]) -> Vec<RankedFilter<'a>> {
        let services = (1..).zip(&self.services);
        order(filters, &self.sublayers, services).expect("all sublayers and services exist")
    }
}

#[test]
fn kernel_classifies_every_layer_as_the_reference_does() {
    let test_host = RefCell::new(TestHost::start());
    // Some policies have filters at all layers, and some have many filters at one layer, so that
    // its index is used.
    let all: Vec<Layer> = Layer::all().collect();
    let layers = prop_oneof![
        Just((all.clone(), 40)),
        select(all).prop_map(|layer| (vec![layer], 120))
    ];
    let cases = layers.prop_flat_map(|(layers, filters)| {
        (
            prop::collection::vec(filter(layers.clone()), 0..filters),
            prop::collection::vec(connection(layers), CONNECTIONS),
        )
    });
    let mut runner = TestRunner::new(Config {
        cases: POLICIES,
        // A runner that is made without the macro `proptest!` does not know its source file, and
        // would save no failing case. They are saved next to this file, in
        // policy.proptest-regressions.
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        max_shrink_iters: 3000,
        max_global_rejects: 1_000_000,
        max_local_rejects: 1_000_000,
        ..Config::default()
    });
    let paths = Paths::new().expect("cgroup v2 is mounted");
    runner
        .run(&cases, |(mut filters, connections)| {
            let mut test_host = test_host.borrow_mut();
            for (filter, id) in filters.iter_mut().zip(1..) {
                filter.id = id;
                test_host.test_paths.expand(filter);
            }
            let sublayers = test_host.sublayers.clone();
            test_host
                .host
                .engine()
                .commit(&filters, &sublayers)
                .expect("the policy is valid");
            let generation = test_host.host.engine().generation();
            for connection in &connections {
                let field_values = field_values(
                    connection,
                    &test_host.test_paths,
                    &paths,
                    &test_host.cgroups,
                );
                let generated = &connection.6;
                let real = test_host.real_states(&field_values);
                let ranked = test_host.ranked(&filters);
                let engine = test_host.host.engine.as_ref().expect("the engine exists");
                for (states, given) in [(generated, Some(generated)), (&real, None)] {
                    let expected = classify(&ranked, &paths, &field_values, states);
                    let actual = engine
                        .classify(&field_values, given)
                        .expect("there is a policy");
                    prop_assert_eq!(actual.generation, generation);
                    prop_assert_eq!(
                        (
                            actual.blocked,
                            actual.hard,
                            actual.vetoed,
                            actual.absent,
                            actual.decided_by,
                            actual.redirect
                        ),
                        (
                            expected.blocked,
                            expected.hard,
                            expected.vetoed,
                            expected.absent,
                            expected.decided_by,
                            expected.redirect
                        ),
                        "{:?}\n{:?}\n{:?}",
                        field_values,
                        states,
                        expected.effects
                    );
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
