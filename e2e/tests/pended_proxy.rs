//! The built-in proxy holds a program's connect until its own has succeeded or failed: what the
//! program sees is what it sees without a proxy, and each connection has a line that says why.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use e2e::Origin;
use e2e::run::{FinishedRun, Run, free_port};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

/// The options of runs with one, two and three proxies.
const CHAINS: [&[&str]; 3] = [
    &["--via", "inspect:a"],
    &["--via", "inspect:a", "--via", "inspect:b"],
    &e2e::run::CHAIN,
];

/// A script for Python that connects to an address and a port, and prints the error's number, or 0.
const CONNECT: &str = "\
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
connection = socket.socket(family)
connection.settimeout(float(sys.argv[3]))
try:
    print(connection.connect_ex((sys.argv[1], int(sys.argv[2]))))
except OSError as error:
    print(error)
";

/// Runs a connect of Python. Returns the run, and what the script has printed.
fn connect(options: &[&str], to: SocketAddr, seconds: &str) -> (FinishedRun, String) {
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let command = ["python3", "-c", CONNECT, &address, &port, seconds];
    let ended = Run::new(options, &command).wait();
    let printed = ended.outcome.stdout.trim().to_owned();
    (ended, printed)
}

/// Each proxy has written one line for the only connection, with this verdict and end.
fn assert_lines(ended: &FinishedRun, proxies: usize, verdict: &str, end: &str) {
    assert_eq!(ended.flows.len(), proxies, "{ended:?}");
    for flow in &ended.flows {
        assert_eq!(flow["verdict"], verdict, "{ended:?}");
        assert_eq!(flow["connect"], "pended", "{ended:?}");
        assert_eq!(flow["ended"], end, "{ended:?}");
        assert_eq!(flow["origin_id"], ended.flows[0]["origin_id"]);
    }
    let stderr: Vec<&str> = ended.outcome.stderr.lines().collect();
    assert_eq!(stderr.len(), 2, "a line and the summary: {stderr:?}");
    let names = ["a", "b", "c"][..proxies].join(" → ");
    assert!(
        stderr[0].contains(&format!("via {names}  {end}")),
        "{stderr:?}"
    );
}

/// A listener that does not answer a SYN, as its accept queue is full.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: TcpStream,
}

impl BlackHole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).expect("a port is free");
        listener.listen(0).expect("the socket is bound");
        let address = listener
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket());
        let address = address.expect("the listener is bound");
        Self {
            address,
            _listener: listener,
            _queued: TcpStream::connect(address).expect("the queue has room for one"),
        }
    }
}

#[test]
fn a_refused_connect_has_the_errno_of_the_origin_at_every_hop() {
    for (index, options) in CHAINS.into_iter().enumerate() {
        for ip in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(ip.parse().expect("an address"), free_port());
            let (ended, errno) = connect(options, to, "10");
            assert_eq!(errno, Errno::CONNREFUSED.raw_os_error().to_string());
            assert_lines(
                &ended,
                index + 1,
                "failed",
                "connect failed: connection refused",
            );
            let summary = ended.outcome.stderr.lines().last().unwrap_or_default();
            assert!(summary.contains("0 denied, 1 failed"), "{summary}");
        }
    }
}

#[test]
fn programs_see_that_a_connect_is_refused() {
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}/");
    let bash = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    for options in CHAINS {
        let ended = Run::new(options, &["curl", "-sS", &url]).wait();
        assert_eq!(ended.outcome.code, Some(7), "{ended:?}");
        let ended = Run::new(options, &["bash", "-c", &bash]).wait();
        assert_eq!(ended.outcome.code, Some(1), "{ended:?}");
        assert!(
            ended.outcome.stderr.contains("Connection refused"),
            "{ended:?}"
        );
    }
}

#[test]
fn the_clients_own_time_out_ends_a_connect_to_a_black_hole() {
    let hole = BlackHole::new();
    let url = format!("http://{}/", hole.address);
    for (index, options) in CHAINS.into_iter().enumerate() {
        let begun = Instant::now();
        let command = ["curl", "-s", "--connect-timeout", "1", &url];
        let ended = Run::new(options, &command).wait();
        assert_eq!(ended.outcome.code, Some(28), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{ended:?}");
        assert_lines(&ended, index + 1, "failed", "client gave up");
    }
}

#[test]
fn a_denied_address_is_refused_with_the_error_of_a_filtered_host() {
    for (ip, errno) in [("127.0.0.1", Errno::HOSTUNREACH), ("::1", Errno::ACCESS)] {
        let origin = TcpListener::bind((ip, 0)).expect("a port is free");
        let to = origin.local_addr().expect("the listener is bound");
        let (ended, printed) = connect(&["--deny", ip], to, "10");
        assert_eq!(printed, errno.raw_os_error().to_string(), "{ended:?}");
        assert_eq!(ended.flows.len(), 1, "{ended:?}");
        assert_eq!(ended.flows[0]["verdict"], "deny");
        assert_eq!(ended.flows[0]["ended"], "denied");
        origin.set_nonblocking(true).expect("the listener is open");
        origin
            .accept()
            .expect_err("the origin has seen a connection");
    }
}

#[test]
fn where_a_rule_needs_the_host_the_client_is_accepted_first() {
    let to: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    for options in [
        &["--deny", "denied.example"][..],
        &["--connect", "accepted"],
    ] {
        let (ended, errno) = connect(options, to, "10");
        // Connected, and reset at once: the program may see only the latter.
        let reset = Errno::CONNRESET.raw_os_error().to_string();
        assert!(["0", &reset].contains(&errno.as_str()), "{ended:?}");
        let flow = &ended.flows[0];
        assert_eq!(
            (&flow["verdict"], &flow["connect"]),
            (&"failed".into(), &"accepted".into())
        );
        let origin = Origin::start("127.0.0.1:0");
        let url = format!("http://{}/", origin.address);
        let ended = Run::new(options, &["curl", "-sS", "-m", "10", &url]).wait();
        assert_eq!(ended.flows[0]["verdict"], "allow", "{ended:?}");
        assert_eq!(ended.flows[0]["connect"], "accepted", "{ended:?}");
        assert_eq!(origin.accepted(), 1);
    }
}

#[test]
fn a_client_that_would_be_accepted_first_is_refused_without_a_route() {
    e2e::netns::enter();
    for (ip, unreachable) in [
        ("192.0.2.7", Errno::NETUNREACH),
        ("2001:db8::7", Errno::NETUNREACH),
    ] {
        let to = SocketAddr::new(ip.parse().expect("an address"), 80);
        let (ended, errno) = connect(
            &["--via", "inspect:a", "--deny", "denied.example"],
            to,
            "10",
        );
        assert_eq!(errno, unreachable.raw_os_error().to_string(), "{ended:?}");
        assert_lines(&ended, 1, "failed", "connect failed: network unreachable");
    }
}

#[test]
fn the_time_out_of_accepted_connects_is_an_option() {
    let hole = BlackHole::new();
    let url = format!("http://{}/", hole.address);
    let options = ["--connect", "accepted", "--connect-timeout", "1"];
    let ended = Run::new(&options, &["curl", "-sS", "-m", "20", &url]).wait();
    assert_eq!(ended.outcome.code, Some(56), "a reset: {ended:?}");
    assert_eq!(ended.flows[0]["ended"], "connect failed: timed out");
    let line = ended
        .outcome
        .stderr
        .lines()
        .find(|line| line.contains("via inspect"));
    let end = "accepted first  connect failed: timed out";
    assert!(line.is_some_and(|line| line.ends_with(end)), "{ended:?}");
}

#[test]
fn every_connection_that_is_reset_at_once_has_a_line() {
    const COUNT: usize = 50;
    let script = format!(
        "\
import socket, struct, sys
for _ in range({COUNT}):
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    connection.close()
"
    );
    let origin = Origin::start("127.0.0.1:0");
    let (address, port) = (
        origin.address.ip().to_string(),
        origin.address.port().to_string(),
    );
    for (index, options) in CHAINS.into_iter().enumerate() {
        let command = ["python3", "-c", &script, &address, &port];
        let ended = Run::new(options, &command).wait();
        assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
        assert_eq!(ended.flows.len(), COUNT * (index + 1), "{ended:?}");
        let summary = ended.outcome.stderr.lines().last().unwrap_or_default();
        assert!(
            summary.starts_with(&format!("{COUNT} connections")),
            "{summary}"
        );
    }
}

#[test]
fn connects_that_are_held_together_all_succeed_with_their_own_origin() {
    const SCRIPT: &str = "\
import socket, sys, threading
wrong = []
def exchange(number):
    for turn in range(20):
        text = b'%d %d' % (number, turn)
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b''.join(iter(lambda: connection.recv(100), b''))
        if answer != b'origin' + text:
            wrong.append(answer)
threads = [threading.Thread(target=exchange, args=(number,)) for number in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
";
    let origin = Origin::start("127.0.0.1:0");
    let (address, port) = (
        origin.address.ip().to_string(),
        origin.address.port().to_string(),
    );
    for (index, options) in CHAINS.into_iter().enumerate() {
        let command = ["python3", "-c", SCRIPT, &address, &port];
        let ended = Run::new(options, &command).wait();
        assert_eq!(
            ended.outcome.stdout.trim(),
            "[]",
            "{}",
            ended.outcome.stderr
        );
        assert_eq!(ended.flows.len(), 32 * 20 * (index + 1));
        assert!(ended.flows.iter().all(|flow| flow["verdict"] == "allow"));
    }
}

#[test]
fn a_run_that_ends_leaves_no_connect_held() {
    let hole = BlackHole::new();
    let (ip, port) = (hole.address.ip(), hole.address.port());
    let script =
        format!("(: <>/dev/tcp/{ip}/{port}) & until grep -q ' 02 ' /proc/net/tcp; do :; done");
    let ended = Run::new(
        &["--via", "inspect:a", "--via", "inspect:b"],
        &["bash", "-c", &script],
    );
    let ended = ended.wait();
    assert_eq!(ended.outcome.code, Some(0), "{ended:?}");
    for flow in &ended.flows {
        // The proxy behind may have been stopped first, and then refuses the one before it.
        let ends = [
            "client gave up",
            "stopped",
            "connect failed: connection refused",
        ];
        let end = flow["ended"].as_str().unwrap_or_default();
        assert!(ends.contains(&end), "{ended:?}");
        assert_eq!(flow["verdict"], "failed");
    }
    assert_eq!(ended.flows.len(), 2, "{ended:?}");
}
