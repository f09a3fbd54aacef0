//! A name with addresses of both families, of which only IPv4 works: clients must fall back to it.

use e2e::comparison::{Comparison, same};
use e2e::{FarHost, HttpOrigin, netns, programs};

use crate::{CURL, WGET, file};

#[test]
fn clients_fall_back_to_ipv4_if_ipv6_refuses() {
    programs::require(&[CURL, WGET]);
    netns::enter();
    netns::set_hosts("::1 two.test\n127.0.0.1 two.test\n");
    let origin = HttpOrigin::start(); // at IPv4 only
    let url = format!("http://two.test:{}/", origin.address.port());
    let urllib = file("urllib_tries.py");
    let comparison = Comparison::of(&format!(
        "row curl tries 10 curl -sS -f -m 10 {url}
         row wget tries 10 wget -q -t 1 -T 10 -O - {url}
         row urllib python3 {urllib} 10 {url}"
    ));
    comparison.assert_rows(&[
        same("curl", "10 of 10"),
        same("wget", "10 of 10"),
        same("urllib", "10 of 10"),
    ]);
    assert_eq!(
        origin.accepted(),
        4 * 30,
        "no connection reached the origin twice"
    );
}

#[test]
fn clients_fall_back_to_ipv4_if_ipv6_does_not_answer() {
    programs::require(&[CURL, WGET]);
    netns::enter();
    let far = FarHost::start();
    netns::set_hosts("fd81::1 two.test\n127.0.0.1 two.test\n");
    netns::ip(&format!("route add fd81::/64 via {}", FarHost::FAR[1]));
    far.inside(|| netns::ip("route add blackhole fd81::/64"));
    let origin = HttpOrigin::start();
    let url = format!("http://two.test:{}/", origin.address.port());
    // curl tries IPv4 after 200 ms, wget after its time-out.
    let comparison = Comparison::of(&format!(
        "row curl timed 200 1500 timeout 10 curl -sS -f {url}
         row wget timed 1000 2500 timeout 10 wget -q -t 1 --connect-timeout=1 -O - {url}"
    ));
    comparison.assert_rows(&[
        same("curl", "exit 0 in time"),
        same("wget", "exit 0 in time"),
    ]);
}
