//! Socket options that are not Sidetrack's. They give the same results, lengths, bytes and errors
//! as without Sidetrack.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use e2e::Host;
use e2e::sys::{get_option, set_option};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};

const SIZES: [usize; 9] = [0, 1, 4, 8, 16, 255, 4096, 5000, 65536];

/// The option answers with the peer's address and port.
const SO_PEERNAME: i32 = 28;

/// The kernel answers this option with the port number, in spite of its name.
const IP_PROTOCOL: i32 = 52;

/// The option answers with data of the last packet, such as its flow label.
const IPV6_2292PKTOPTIONS: i32 = 6;

/// Levels, each with the highest option number of any kernel. The last two levels do not exist.
const LEVELS: [(i32, i32); 7] = [
    (SOL_SOCKET, 90),
    (IPPROTO_IP, 85),
    (IPPROTO_IPV6, 85),
    (IPPROTO_TCP, 50),
    (libc::IPPROTO_UDP, 5),
    (0x5353, 5),
    (-1, 5),
];

/// Options that differ between any two sockets, since they answer with a time, an address or a number.
const DIFFERENT_FOR_EACH_SOCKET: [(i32, i32); 12] = [
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

/// Three sockets: one that listens, and the two ends of a connection.
struct Sockets {
    listener: TcpListener,
    client: TcpStream,
    accepted: TcpStream,
}

impl Sockets {
    fn make(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a port is free");
        let client =
            TcpStream::connect(listener.local_addr().unwrap()).expect("the client connects");
        let (accepted, _) = listener.accept().expect("the client has connected");
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

/// Makes the same sockets twice: in a service's cgroup, with Sidetrack's programs attached, and
/// outside of the scope.
fn inside_and_outside(host: &mut Host, address: &str) -> [Sockets; 2] {
    let service = host.service("inspect");
    let _listening = host.answer(&service);
    host.redirect_all(&[]);
    let inside = Sockets::make(address);
    host.leave_scope();
    [inside, Sockets::make(address)]
}

fn options() -> impl Iterator<Item = (i32, i32)> {
    LEVELS
        .into_iter()
        .flat_map(|(level, last)| (0..=last).map(move |name| (level, name)))
        .filter(|option| !DIFFERENT_FOR_EACH_SOCKET.contains(option))
}

/// Compares the answers to all options. Returns the number of those that succeeded.
fn assert_same_answers(inside: &Sockets, outside: &Sockets) -> u32 {
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

fn getsockopt_is_unchanged(test: &str, address: &str) {
    let mut host = Host::new(test);
    let [inside, outside] = inside_and_outside(&mut host, address);
    let answered = assert_same_answers(&inside, &outside);
    assert!(answered > 1000, "only {answered} calls succeeded");
}

#[test]
fn getsockopt_of_other_options_is_unchanged_on_ipv4_sockets() {
    getsockopt_is_unchanged("get_v4", "127.0.0.1:0");
}

#[test]
fn getsockopt_of_other_options_is_unchanged_on_ipv6_sockets() {
    getsockopt_is_unchanged("get_v6", "[::1]:0");
}

/// False for options that would change the host, or other sockets.
fn may_be_set(level: i32, name: i32) -> bool {
    let netfilter = (level == IPPROTO_IP || level == IPPROTO_IPV6) && name >= 64;
    let multicast_routing = level == IPPROTO_IP && (200..=210).contains(&name);
    !netfilter && !multicast_routing
}

/// Sets the keepalive time back to two hours. After the test has set it to a second, keepalive
/// could end the connection during the test on a slow machine.
fn reset_keepalive(sockets: &Sockets) {
    let seconds = 7200_i32.to_ne_bytes();
    for socket in sockets.all() {
        assert_eq!(
            set_option(socket, IPPROTO_TCP, libc::TCP_KEEPIDLE, &seconds),
            0
        );
    }
}

fn setsockopt_is_unchanged(test: &str, address: &str) {
    let mut host = Host::new(test);
    let [inside, outside] = inside_and_outside(&mut host, address);
    let mut succeeded = 0;
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
                    succeeded += u32::from(without == 0);
                }
            }
        }
        if (level, name) == (IPPROTO_TCP, libc::TCP_KEEPIDLE) {
            [&inside, &outside].into_iter().for_each(reset_keepalive);
        }
    }
    assert!(succeeded > 500, "only {succeeded} calls succeeded");
    assert_same_answers(&inside, &outside);
}

#[test]
fn setsockopt_of_other_options_is_unchanged_on_ipv4_sockets() {
    setsockopt_is_unchanged("set_v4", "127.0.0.1:0");
}

#[test]
fn setsockopt_of_other_options_is_unchanged_on_ipv6_sockets() {
    setsockopt_is_unchanged("set_v6", "[::1]:0");
}
