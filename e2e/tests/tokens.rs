//! Redirect records: never guessed, never forged, never used after their time (design 7.5).

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::sys::set_option;
use e2e::{Client, Host, Origin, listen_by_hand, wait};
use sidetrack::{Error, Flow, Records, set_records};
use sidetrack_abi::kernel::{self, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine};
use socket2::{Domain, Socket, Type};
use zerocopy::IntoBytes;

/// A redirected connection, held at both ends.
struct Held {
    stream: TcpStream,
    flow: Flow,
    _client: Client,
}

fn hold(host: &mut Host) -> Held {
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    let client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = listener.accept().expect("the client comes");
    let flow = sidetrack::query(&stream).expect("it answers");
    Held {
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
    Host::with(test, config)
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made")
}

/// Takes part of a random stream; no test depends on which.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn token_cannot_be_guessed() {
    const GUESSES: u64 = 1_000_000;
    let mut host = Host::new("guessed");
    let held = hold(&mut host);
    let good: kernel::Records = zerocopy::transmute!(held.flow.records().to_bytes());
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
    let held = hold(&mut host);
    for bit in 0..256 {
        let mut bytes = held.flow.records().to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = set_records(socket(), &Records::from_bytes(bytes));
        assert!(matches!(refused, Err(Error::BadRecords)), "bit {bit}");
    }
    for size in (0..32).chain([33, 64, 4096, 5000]) {
        let mut bytes = held.flow.records().to_bytes().to_vec();
        bytes.resize(size, 0);
        let errno = set_option(socket(), SOL_SIDETRACK, kernel::RECORDS, &bytes);
        assert_eq!(errno, libc::EINVAL, "{size} bytes");
    }
    set_records(socket(), &held.flow.records()).expect("the true one is good");
}

#[test]
fn token_of_another_engine_is_refused() {
    let mut host = Host::new("another_engine");
    let held = hold(&mut host);
    let elsewhere = Host::bare("another_engine_2");
    let mut second = Engine::open(elsewhere.root(), Config::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach())
        .expect("two engines at two places are fine");
    let spec = sidetrack_engine::ServiceSpec::new("inspect");
    second
        .add_service(&spec, &elsewhere.service)
        .expect("it can be added");
    elsewhere.enter_service();
    let refused = set_records(socket(), &held.flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
    let seen = second.counters().expect("can be read");
    assert_eq!(seen.value(Counter::BadToken), 1);
    host.enter_service();
    set_records(socket(), &held.flow.records()).expect("its own engine takes it");
}

#[test]
fn records_may_be_set_again_before_connect_but_not_after() {
    let mut host = Host::new("set_again");
    let held = hold(&mut host);
    let again = socket();
    for _ in 0..3 {
        set_records(&again, &held.flow.records()).expect("not yet connected");
    }
    assert_eq!(host.count(Counter::Linked), 3);
    let refused = set_records(&held.stream, &held.flow.records());
    assert!(
        matches!(refused, Err(Error::AlreadyConnected)),
        "{refused:?}"
    );
    let connected = held
        .flow
        .connect_to(straight(&mut host))
        .expect("nobody is in the way");
    let refused = set_records(&connected, &held.flow.records());
    assert!(
        matches!(refused, Err(Error::AlreadyConnected)),
        "{refused:?}"
    );
}

/// An address that no filter touches any more.
fn straight(host: &mut Host) -> std::net::SocketAddr {
    host.set_policy(&[]);
    Origin::start("127.0.0.1:0").address
}

#[test]
fn token_cannot_be_used_after_its_time() {
    let grace = Duration::from_millis(50);
    let mut host = with_grace("after_its_time", grace);
    let Held {
        stream,
        flow,
        _client,
    } = hold(&mut host);
    drop(stream);
    wait::until("the client has closed too", || host.flows() == 0);
    let closed = Instant::now();
    wait::until("its time is over", || closed.elapsed() > grace);
    let refused = set_records(socket(), &flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
    assert_eq!(host.count(Counter::BadToken), 1);
}

#[test]
fn token_is_good_within_its_grace() {
    let mut host = with_grace("within_grace", Duration::from_secs(600));
    let Held {
        stream,
        flow,
        _client,
    } = hold(&mut host);
    drop(stream);
    set_records(socket(), &flow.records()).expect("its grace has begun");
    let to = straight(&mut host);
    let mut onward = flow.connect_to(to).expect("the connect is good too");
    let mut greeting = [0; 6];
    onward.read_exact(&mut greeting).expect("the origin speaks");
    assert_eq!(&greeting, b"origin");
}

#[test]
fn token_stays_good_while_a_linked_socket_is_open() {
    let grace = Duration::from_millis(50);
    let mut host = with_grace("stays_good", grace);
    let Held {
        stream,
        flow,
        _client,
    } = hold(&mut host);
    let linked = socket();
    set_records(&linked, &flow.records()).expect("it is good");
    drop(stream);
    let closed = Instant::now();
    wait::until("its time would be over", || closed.elapsed() > 2 * grace);
    set_records(socket(), &flow.records()).expect("a linked socket keeps it");
    drop(linked);
    let closed = Instant::now();
    wait::until("its time is over", || closed.elapsed() > grace);
    let refused = set_records(socket(), &flow.records());
    assert!(matches!(refused, Err(Error::BadRecords)), "{refused:?}");
}

#[test]
fn linked_socket_keeps_the_chain_after_the_accepted_one_closed() {
    let mut host = Host::new("keeps_the_chain");
    let held = hold(&mut host);
    let linked = socket();
    set_records(&linked, &held.flow.records()).expect("it is good");
    drop(held);
    let origin = Origin::start("127.0.0.1:0");
    linked
        .connect(&origin.address.into())
        .expect("the service has seen it");
    wait::until("it arrived", || origin.accepted() == 1);
    assert_eq!(host.count(Counter::RecordsStale), 0);
}
