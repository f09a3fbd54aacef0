//! The error numbers of connects that fail, for each way to wait for them.

use e2e::comparison::{Comparison, Row, documented};
use e2e::{FarHost, netns};

use crate::{ConnectProgram, DEAD, MODES};

/// A destination that cannot be reached, and the errors with which it fails.
struct Unreachable {
    what: &'static str,
    address: &'static str,
    straight: &'static str,
    redirected: &'static str,
}

impl Unreachable {
    /// Whether another host answers by ICMP. Then some connects of io_uring end with success, also
    /// without Sidetrack, on Linux 6.18.
    fn is_icmp_over_ipv4(&self) -> bool {
        self.what.starts_with("router") && self.address.contains('.')
    }
}

const fn everywhere(what: &'static str, address: &'static str, errno: &'static str) -> Unreachable {
    Unreachable {
        what,
        address,
        straight: errno,
        redirected: errno,
    }
}

/// What is not the same, because no packet that a host may receive leads to this error.
const fn redirected(unreachable: Unreachable, errno: &'static str) -> Unreachable {
    Unreachable {
        redirected: errno,
        ..unreachable
    }
}

/// Addresses that the second host refuses, or that it cannot reach as a router.
const ELSEWHERE: [Unreachable; 8] = [
    everywhere("nobody listens", FarHost::FAR[0], "ECONNREFUSED"),
    everywhere("nobody listens", FarHost::FAR[1], "ECONNREFUSED"),
    everywhere("router has no host", "10.82.0.1", "EHOSTUNREACH"),
    everywhere("router has no host", "fd82::1", "ENETUNREACH"),
    everywhere("router has no route", "10.85.0.1", "ENETUNREACH"),
    everywhere("router has no route", "fd85::1", "ENETUNREACH"),
    everywhere("router has prohibit", "10.84.0.1", "EHOSTUNREACH"),
    everywhere("router has prohibit", "fd84::1", "EACCES"),
];

/// Addresses for which this host's routes have an error, or that it refuses itself.
const HERE: [Unreachable; 10] = [
    everywhere("nobody listens", "127.0.0.1", "ECONNREFUSED"),
    everywhere("nobody listens", "::1", "ECONNREFUSED"),
    everywhere("route is unreachable", "10.92.0.1", "EHOSTUNREACH"),
    everywhere("route is unreachable", "fd92::1", "EHOSTUNREACH"),
    everywhere("no route", "10.95.0.1", "ENETUNREACH"),
    everywhere("no route", "fd95::1", "ENETUNREACH"),
    redirected(
        everywhere("route is prohibit", "10.94.0.1", "EACCES"),
        "EHOSTUNREACH",
    ),
    everywhere("route is prohibit", "fd94::1", "EACCES"),
    redirected(
        everywhere("route is blackhole", "10.96.0.1", "EINVAL"),
        "ECONNREFUSED",
    ),
    redirected(
        everywhere("route is blackhole", "fd96::1", "EINVAL"),
        "ECONNREFUSED",
    ),
];

/// Connects to each destination in each mode, all at once: if the answer comes while the connect is
/// still being made, the kernel waits for a second one, which comes after the second SYN.
fn compare(destinations: &[Unreachable]) {
    let program = ConnectProgram::compile();
    let connect = program.path().display().to_string();
    let mut rows = Vec::new();
    let mut script = String::new();
    for to in destinations {
        for mode in MODES {
            if mode == "uring" && to.is_icmp_over_ipv4() {
                continue;
            }
            let (what, address) = (to.what, to.address);
            let name = format!("{what}, {mode} {address}");
            script += &format!("row '{name}' timeout 10 {connect} {mode} {address} {DEAD} &\n");
            rows.push((name, to));
        }
    }
    script += "wait";
    let comparison = Comparison::of(&script);
    let expected: Vec<Row> = rows
        .iter()
        .map(|(name, to)| documented(name, to.straight, to.redirected))
        .collect();
    comparison.assert_rows(&expected);
}

#[test]
fn errors_of_other_hosts_are_the_clients() {
    netns::enter();
    let far = FarHost::start();
    let [v4, v6] = FarHost::FAR;
    for number in [82, 84, 85] {
        netns::ip(&format!("route add 10.{number}.0.0/24 via {v4}"));
        netns::ip(&format!("route add fd{number}::/64 via {v6}"));
    }
    far.inside(|| {
        for (kind, number) in [("unreachable", 82), ("prohibit", 84)] {
            netns::ip(&format!("route add {kind} 10.{number}.0.0/24"));
            netns::ip(&format!("route add {kind} fd{number}::/64"));
        }
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
        ] {
            netns::set_sysctl(name, value);
        }
    });
    compare(&ELSEWHERE);
}

#[test]
fn errors_of_this_hosts_routes_are_the_clients() {
    netns::enter();
    for (kind, number) in [("unreachable", 92), ("prohibit", 94), ("blackhole", 96)] {
        netns::ip(&format!("route add {kind} 10.{number}.0.0/24"));
        netns::ip(&format!("route add {kind} fd{number}::/64"));
    }
    compare(&HERE);
}
