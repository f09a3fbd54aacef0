//! Options that are not ours answer as if we were not there: the same results, lengths, bytes, errors.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use e2e::Host;
use e2e::sys::{get_option, set_option};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};

const SIZES: [usize; 9] = [0, 1, 4, 8, 16, 255, 4096, 5000, 65536];

/// The peer's address and port.
const SO_PEERNAME: i32 = 28;

/// The kernel answers with the port number, whatever the name says.
const IP_PROTOCOL: i32 = 52;

/// The last packet, with its flow label.
const IPV6_2292PKTOPTIONS: i32 = 6;

/// Levels, and their options with the highest number that a kernel has. The last two are nobody's.
const LEVELS: [(i32, i32); 7] = [
    (SOL_SOCKET, 90),
    (IPPROTO_IP, 85),
    (IPPROTO_IPV6, 85),
    (IPPROTO_TCP, 50),
    (libc::IPPROTO_UDP, 5),
    (0x5353, 5),
    (-1, 5),
];

/// Of a time, a place or a name: two sockets never have the same.
const OWN_TO_EACH: [(i32, i32); 12] = [
    (IPPROTO_TCP, libc::TCP_QUEUE_SEQ),
    (IPPROTO_IPV6, IPV6_2292PKTOPTIONS),
    (IPPROTO_IP, IP_PROTOCOL),
    (SOL_SOCKET, SO_PEERNAME),
    (SOL_SOCKET, libc::SO_COOKIE),
    (SOL_SOCKET, libc::SO_INCOMING_CPU),
    (SOL_SOCKET, libc::SO_MEMINFO),
    (IPPROTO_TCP, libc::TCP_INFO),
    (IPPROTO_TCP, libc::TCP_TIMESTAMP),
    (IPPROTO_TCP, libc::TCP_CC_INFO),
    (IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE),
    (IPPROTO_TCP, libc::TCP_SAVED_SYN),
];

/// The same three sockets: one that listens, and the two ends of a connection.
struct Sockets {
    listener: TcpListener,
    client: TcpStream,
    accepted: TcpStream,
}

impl Sockets {
    fn make(at: &str) -> Self {
        let listener = TcpListener::bind(at).expect("a free port");
        let client = TcpStream::connect(listener.local_addr().unwrap()).expect("it listens");
        let (accepted, _) = listener.accept().expect("just connected");
        Self {
            listener,
            client,
            accepted,
        }
    }

    fn all(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.listener.as_fd(),
            self.client.as_fd(),
            self.accepted.as_fd(),
        ]
    }
}

/// Pairs of like sockets: made in a service's cgroup, with the programs attached, and outside.
fn pairs(host: &mut Host, at: &str) -> [Sockets; 2] {
    let service = host.service("inspect");
    let _listening = host.answer(&service);
    host.redirect_all(&[]);
    let inside = Sockets::make(at);
    host.leave();
    [inside, Sockets::make(at)]
}

fn options() -> impl Iterator<Item = (i32, i32)> {
    LEVELS
        .into_iter()
        .flat_map(|(level, last)| (0..=last).map(move |name| (level, name)))
        .filter(|option| !OWN_TO_EACH.contains(option))
}

fn same_answers(inside: &Sockets, outside: &Sockets) -> u32 {
    let mut answered = 0;
    for (level, name) in options() {
        for (inside, outside) in inside.all().into_iter().zip(outside.all()) {
            for size in SIZES {
                let (with, without) = (
                    get_option(inside, level, name, size),
                    get_option(outside, level, name, size),
                );
                assert_eq!(with, without, "level {level} option {name} in {size} bytes");
                answered += u32::from(without.errno == 0);
            }
        }
    }
    answered
}

fn getting_is_the_same(test: &str, at: &str) {
    let mut host = Host::new(test);
    let [inside, outside] = pairs(&mut host, at);
    let answered = same_answers(&inside, &outside);
    assert!(answered > 1000, "only {answered} were answered");
}

#[test]
fn getting_options_of_ipv4_sockets_is_as_without_us() {
    getting_is_the_same("get_v4", "127.0.0.1:0");
}

#[test]
fn getting_options_of_ipv6_sockets_is_as_without_us() {
    getting_is_the_same("get_v6", "[::1]:0");
}

/// Those that would change the host, or what the other sockets do.
fn may_be_set(level: i32, name: i32) -> bool {
    let netfilter = (level == IPPROTO_IP || level == IPPROTO_IPV6) && name >= 64;
    let multicast_routing = level == IPPROTO_IP && (200..=210).contains(&name);
    !netfilter && !multicast_routing
}

/// Lest a keepalive of a second ends the connection in the middle of a slow machine's test.
fn be_patient(sockets: &Sockets) {
    let seconds = 7200_i32.to_ne_bytes();
    for socket in sockets.all() {
        assert_eq!(
            set_option(socket, IPPROTO_TCP, libc::TCP_KEEPIDLE, &seconds),
            0
        );
    }
}

fn setting_is_the_same(test: &str, at: &str) {
    let mut host = Host::new(test);
    let [inside, outside] = pairs(&mut host, at);
    let mut taken = 0;
    for (level, name) in options().filter(|&(level, name)| may_be_set(level, name)) {
        for byte in [0, 1] {
            for (inside, outside) in inside.all().into_iter().zip(outside.all()) {
                for size in SIZES {
                    let mut value = vec![0; size];
                    value.iter_mut().take(1).for_each(|first| *first = byte);
                    let with = set_option(inside, level, name, &value);
                    let without = set_option(outside, level, name, &value);
                    let case = format!("level {level} option {name} of {size} bytes, {byte}");
                    assert_eq!(with, without, "{case}");
                    taken += u32::from(without == 0);
                }
            }
        }
        if (level, name) == (IPPROTO_TCP, libc::TCP_KEEPIDLE) {
            [&inside, &outside].into_iter().for_each(be_patient);
        }
    }
    assert!(taken > 500, "only {taken} were taken");
    same_answers(&inside, &outside);
}

#[test]
fn setting_options_of_ipv4_sockets_is_as_without_us() {
    setting_is_the_same("set_v4", "127.0.0.1:0");
}

#[test]
fn setting_options_of_ipv6_sockets_is_as_without_us() {
    setting_is_the_same("set_v6", "[::1]:0");
}
