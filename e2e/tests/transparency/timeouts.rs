//! A destination that does not answer: the client's time-outs must last as long as ever.

use e2e::comparison::{Comparison, same};
use e2e::{FarHost, netns, programs};

use crate::{CURL, ConnectProgram, MODES, NC, WGET, file};

/// Joins a host that drops what is sent to 10.81.0.0/24 and fd81::/64.
pub(super) fn black_hole() -> FarHost {
    let far = FarHost::start();
    let [v4, v6] = FarHost::FAR;
    netns::ip(&format!("route add 10.81.0.0/24 via {v4}"));
    netns::ip(&format!("route add fd81::/64 via {v6}"));
    far.inside(|| {
        netns::ip("route add blackhole 10.81.0.0/24");
        netns::ip("route add blackhole fd81::/64");
    });
    far
}

#[test]
fn a_client_that_gives_up_does_so_in_its_own_time() {
    programs::require(&[CURL, WGET, NC]);
    netns::enter();
    let _far = black_hole();
    let python = file("timeout.py");
    let comparison = Comparison::of(&format!(
        "row curl timed 2000 3500 timeout 10 curl -sS --connect-timeout 2 http://10.81.0.1/ &
         row 'curl over IPv6' timed 2000 3500 timeout 10 curl -sS --connect-timeout 2 http://[fd81::1]/ &
         row wget timed 2000 3500 timeout 10 wget -q -t 1 --connect-timeout=2 -O - http://10.81.0.1/ &
         row nc timed 2000 3500 timeout 10 nc -z -w 2 10.81.0.1 80 &
         row python python3 {python} 10.81.0.1 2 &
         wait"
    ));
    comparison.assert_rows(&[
        same("curl", "exit 28 in time"),
        same("curl over IPv6", "exit 28 in time"),
        same("wget", "exit 4 in time"),
        same("nc", "exit 1 in time"),
        same("python", "timed out in time"),
    ]);
}

#[test]
fn the_kernels_own_timeout_ends_a_connect() {
    let program = ConnectProgram::compile();
    netns::enter();
    let _far = black_hole();
    // The second SYN is sent after 1 s, and 2 s after that the connect fails.
    netns::set_sysctl("ipv4/tcp_syn_retries", "1");
    let connect = program.path().display().to_string();
    let mut rows = Vec::new();
    let mut script = String::new();
    for to in ["10.81.0.1", "fd81::1"] {
        for mode in MODES {
            let name = format!("{mode} {to}");
            script += &format!("row '{name}' timeout 20 {connect} {mode} {to} 80 &\n");
            rows.push(name);
        }
    }
    script += "row time timed 3000 5000 timeout 20 CONNECT blocking 10.81.0.1 80 &\nwait";
    let comparison = Comparison::of(&script.replace("CONNECT", &connect));
    let mut expected: Vec<_> = rows.iter().map(|name| same(name, "ETIMEDOUT")).collect();
    expected.push(same("time", "exit 1 in time"));
    comparison.assert_rows(&expected);
}
