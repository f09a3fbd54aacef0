//! The error numbers of connects that fail, for each way to wait for them.

use std::process::Command;

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

/// Addresses that the second host refuses as a host, and others that it refuses as a router.
const ELSEWHERE: [Unreachable; 8] = [
    everywhere("nobody listens", FarHost::FAR[0], "ECONNREFUSED"),
    everywhere("nobody listens", FarHost::FAR[1], "ECONNREFUSED"),
    everywhere("router: host-unreachable", "10.82.0.1", "EHOSTUNREACH"),
    everywhere("router: addr-unreachable", "fd82::1", "EHOSTUNREACH"),
    everywhere("router: net-unreachable", "10.85.0.1", "ENETUNREACH"),
    everywhere("router: no-route", "fd85::1", "ENETUNREACH"),
    everywhere("router: admin-prohibited", "10.84.0.1", "EHOSTUNREACH"),
    everywhere("router: admin-prohibited", "fd84::1", "EACCES"),
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
            let name = format!("{}, {mode} {address}", what.replace(": ", " says "));
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

/// Answers by the ICMP messages that [`ELSEWHERE`] names. The routing table could do that too, but only
/// once in a second.
fn refuse_as_a_router() {
    let mut rules = String::from(
        "table inet refuse {\nchain prerouting {\ntype filter hook prerouting priority 0;\n",
    );
    for to in &ELSEWHERE {
        let Some(message) = to.what.strip_prefix("router: ") else {
            continue;
        };
        let (address, reject) = match to.address.contains(':') {
            true => ("ip6 daddr", "icmpv6"),
            false => ("ip daddr", "icmp"),
        };
        rules += &format!(
            "{address} {} reject with {reject} type {message}\n",
            to.address
        );
    }
    rules += "}\n}";
    let output = Command::new("nft").arg(&rules).output();
    let output = output.expect("nft is installed");
    assert!(output.status.success(), "{rules}: {output:?}");
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
        netns::set_sysctl("ipv4/icmp_ratelimit", "0");
        netns::set_sysctl("ipv6/icmp/ratelimit", "0");
        refuse_as_a_router();
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
