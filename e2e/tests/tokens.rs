//! The token of redirect records cannot be guessed, forged, or used too late (ARCHITECTURE.md,
//! What must always hold, 5).

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::sys::set_option;
use e2e::{Client, Host, Origin, listen_marked, wait};
use sidetrack::{Error, Flow, Records, set_records};
use sidetrack_abi::kernel::{self, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine};
use socket2::{Domain, Socket, Type};
use zerocopy::IntoBytes;

/// A redirected connection that is open at both ends.
struct OpenConnection {
    stream: TcpStream,
    flow: Flow,
    _client: Client,
}

fn open_connection(host: &mut Host) -> OpenConnection {
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    let client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = listener.accept().expect("the client connects");
    let flow = sidetrack::query(&stream).expect("the socket answers");
    OpenConnection {
        stream,
        flow,
        _client: client,
    }
}

fn with_grace(test: &str, grace: Duration) -> Host {
    let config = Config {
        grace,
        ..Config::default()
    };
    Host::with_config(test, config)
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket")
}

/// The next number of a pseudo-random sequence (xorshift). No test depends on the sequence.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn guessed_tokens_are_refused() {
    const GUESSES: u64 = 1_000_000;
    let mut host = Host::new("guessed");
    let connection = open_connection(&mut host);
    let good: kernel::Records = zerocopy::transmute!(connection.flow.records().to_bytes());
    let socket = socket();
    let mut state = u64::from_ne_bytes(good.mac[..8].try_into().unwrap()) | 1;
    for guess in 0..GUESSES {
        let mac = [random(&mut state), random(&mut state)];
        let mut token = kernel::Records {
            mac: zerocopy::transmute!(mac),
            ..good
        };
        if guess % 2 == 1 {
            token.flow_id = random(&mut state);
            token.engine_id = random(&mut state);
        }
        let errno = set_option(&socket, SOL_SIDETRACK, kernel::RECORDS, token.as_bytes());
        assert_eq!(errno, libc::EINVAL, "guess {guess}: {token:?}");
    }
    assert_eq!(host.count(Counter::BadToken), GUESSES);
    assert_eq!(host.count(Counter::Linked), 0);
}

#[test]
fn token_with_any_bit_changed_is_refused() {
    let mut host = Host::new("bit_changed");
    let connection = open_connection(&mut host);
    for bit in 0..256 {
        let mut bytes = connection.flow.records().to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = set_records(socket(), &Records::from_bytes(bytes));
        assert!(matches!(refused, Err(Error::BadRecords)), "bit {bit}");
    }
    for size in (0..32).chain([33, 64, 4096, 5000]) {
        let mut bytes = connection.flow.records().to_bytes().to_vec();
        bytes.resize(size, 0);
        let errno = set_option(socket(), SOL_SIDETRACK, kernel::RECORDS, &bytes);
        assert_eq!(errno, libc::EINVAL, "{size} bytes");
    }
    set_records(socket(), &connection.flow.records()).expect("the unchanged token is valid");
}

#[test]
fn token_of_another_engine_is_refused() {
    let mut host = Host::new("another_engine");
    let connection = open_connection(&mut host);
    let other_host = Host::without_engine("another_engine_2");
    let mut second = Engine::open(other_host.root(), Config::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach())
        .expect("a second engine at another cgroup may attach");
    let spec = sidetrack_engine::ServiceSpec::new("inspect");
    second
        .add_service(&spec, &other_host.service_cgroup)
        .expect("the service is added");
    other_host.enter_service_cgroup();
    let refused = set_records(socket(), &connection.flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
    let counters = second.counters().expect("the counters are readable");
    assert_eq!(counters.value(Counter::BadToken), 1);
    host.enter_service_cgroup();
    set_records(socket(), &connection.flow.records()).expect("the token's engine accepts it");
}

#[test]
fn records_may_be_set_again_before_connect_but_not_after() {
    let mut host = Host::new("set_again");
    let connection = open_connection(&mut host);
    let unconnected = socket();
    for _ in 0..3 {
        set_records(&unconnected, &connection.flow.records()).expect("the socket is not connected");
    }
    assert_eq!(host.count(Counter::Linked), 3);
    let refused = set_records(&connection.stream, &connection.flow.records());
    assert!(
        matches!(refused, Err(Error::AlreadyConnected)),
        "{refused:?}"
    );
    let connected = connection
        .flow
        .connect_to(unmatched_origin(&mut host))
        .expect("no filter matches");
    let refused = set_records(&connected, &connection.flow.records());
    assert!(
        matches!(refused, Err(Error::AlreadyConnected)),
        "{refused:?}"
    );
}

/// Removes all filters, and starts an origin. Returns its address.
fn unmatched_origin(host: &mut Host) -> std::net::SocketAddr {
    host.set_policy([]);
    Origin::start("127.0.0.1:0").address
}

#[test]
fn token_is_refused_after_the_grace_period() {
    let grace = Duration::from_millis(50);
    let mut host = with_grace("after_grace", grace);
    let OpenConnection {
        stream,
        flow,
        _client,
    } = open_connection(&mut host);
    drop(stream);
    wait::until("the client has closed its socket too", || {
        host.flow_count() == 0
    });
    let closed = Instant::now();
    wait::until("the grace period is over", || closed.elapsed() > grace);
    let refused = set_records(socket(), &flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
    assert_eq!(host.count(Counter::BadToken), 1);
}

#[test]
fn token_is_accepted_within_the_grace_period() {
    let mut host = with_grace("within_grace", Duration::from_secs(600));
    let OpenConnection {
        stream,
        flow,
        _client,
    } = open_connection(&mut host);
    drop(stream);
    set_records(socket(), &flow.records()).expect("the token is still valid");
    let to = unmatched_origin(&mut host);
    let mut outgoing = flow.connect_to(to).expect("the connect is permitted too");
    let mut greeting = [0; 6];
    outgoing
        .read_exact(&mut greeting)
        .expect("the origin sends its greeting");
    assert_eq!(&greeting, b"origin");
}

#[test]
fn token_stays_valid_while_a_linked_socket_is_open() {
    let grace = Duration::from_millis(50);
    let mut host = with_grace("linked_socket", grace);
    let OpenConnection {
        stream,
        flow,
        _client,
    } = open_connection(&mut host);
    let linked = socket();
    set_records(&linked, &flow.records()).expect("the token is valid");
    drop(stream);
    let closed = Instant::now();
    wait::until("the grace period would be over", || {
        closed.elapsed() > 2 * grace
    });
    set_records(socket(), &flow.records()).expect("a linked socket keeps the token valid");
    drop(linked);
    let closed = Instant::now();
    wait::until("the grace period is over", || closed.elapsed() > grace);
    let refused = set_records(socket(), &flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
}

#[test]
fn linked_socket_keeps_the_chain_after_the_accepted_socket_closed() {
    let mut host = Host::new("keeps_the_chain");
    let connection = open_connection(&mut host);
    let linked = socket();
    set_records(&linked, &connection.flow.records()).expect("the token is valid");
    drop(connection);
    let origin = Origin::start("127.0.0.1:0");
    linked
        .connect(&origin.address.into())
        .expect("the service is not redirected to itself");
    wait::until("the connection has arrived", || origin.accepted() == 1);
    assert_eq!(host.count(Counter::RecordsStale), 0);
}
