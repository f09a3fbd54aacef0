//! A proxy that dies or hangs while it holds a connect: the connect fails, and no client waits longer
//! than its own time-out.

use std::fs;
use std::time::{Duration, Instant};

use e2e::run::Run;
use e2e::{FarHost, netns, send_signal, wait};
use rustix::process::Signal;

use crate::ConnectProgram;
use crate::timeouts::black_hole;

/// With 2 retries, SYNs are sent after 0, 1 and 3 s, and a connect fails after 7 s.
const SYN_RETRIES: &str = "2";
const OWN_TIMEOUT: Duration = Duration::from_secs(7);
/// A client's next SYN, and some time in which a busy host does not run it.
const NEXT_SYN: Duration = Duration::from_secs(4);

/// What a connect to the black hole, through a chain, came to.
struct Ended {
    errno: String,
    /// The time from the signal.
    after: Duration,
}

/// Connects through this number of proxies, and sends a signal to one of them while all hold the connect.
fn connect_and_signal(
    options: &[&str],
    proxies: usize,
    signalled: usize,
    signal: Signal,
) -> (Ended, FarHost) {
    let program = ConnectProgram::compile();
    let far = black_hole();
    netns::set_sysctl("ipv4/tcp_syn_retries", SYN_RETRIES);
    let services: Vec<_> = (1..=proxies)
        .map(|number| format!("inspect:p{number}"))
        .collect();
    let vias = services.iter().flat_map(|service| ["--via", service]);
    let options: Vec<_> = vias.chain(options.iter().copied()).collect();
    let connect = program.path().display().to_string();
    let command = [&connect, "blocking", "10.81.0.1", "80"];
    let started = Run::new(&options, &command).start();
    let proxy = started.processes(&format!("service-{signalled}"))[0];
    // The client, and the outgoing socket of each proxy.
    wait::until("all connects are held", || connecting() == proxies + 1);
    let start = Instant::now();
    send_signal(proxy, signal);
    let client = started.processes("program");
    wait::until("the client has ended", || {
        client.iter().all(|&pid| e2e::run::is_gone(pid))
    });
    let after = start.elapsed();
    let finished = started.wait();
    let errno = finished.outcome.stdout.trim().to_owned();
    (Ended { errno, after }, far)
}

/// Number of IPv4 sockets of this network namespace that wait for an answer to their SYN.
fn connecting() -> usize {
    const SYN_SENT: &str = "02";
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("the file exists");
    let states = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    states.filter(|state| *state == SYN_SENT).count()
}

fn assert_fails_soon(options: &[&str], proxies: usize, killed: usize) {
    netns::enter();
    let (ended, _far) = connect_and_signal(options, proxies, killed, Signal::KILL);
    assert_eq!(ended.errno, "ECONNREFUSED", "after {:?}", ended.after);
    assert!(ended.after < NEXT_SYN, "after {:?}", ended.after);
}

#[test]
fn a_proxy_dies_while_it_holds_a_connect() {
    assert_fails_soon(&[], 1, 1);
}

#[test]
fn a_proxy_dies_while_it_holds_a_connect_although_absent_ones_are_permitted() {
    assert_fails_soon(&["--on-absent", "permit"], 1, 1);
}

#[test]
fn the_first_of_two_proxies_dies_while_it_holds_a_connect() {
    assert_fails_soon(&[], 2, 1);
}

#[test]
fn the_second_of_two_proxies_dies_while_it_holds_a_connect() {
    assert_fails_soon(&[], 2, 2);
}

#[test]
fn a_proxy_that_hangs_leaves_the_client_its_own_timeout() {
    netns::enter();
    let (ended, _far) = connect_and_signal(&[], 2, 1, Signal::STOP);
    assert_eq!(ended.errno, "ETIMEDOUT", "after {:?}", ended.after);
    assert!(
        ended.after < OWN_TIMEOUT + Duration::from_secs(2),
        "{:?}",
        ended.after
    );
}
