//! The products of two vendors on one host. Each works without knowledge of the other.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use e2e::{Api, Daemon, Host, Process, wait};
use sidetrack_api::v1;

const WEIGHTS: [(&str, u16); 2] = [("acme", 200), ("beta", 100)];

/// Indices of vendors, in the order of their steps. The first step of a vendor is its start, the
/// second its end.
type Order = [usize; 4];

const ORDERS: [Order; 6] = [
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    [0, 1, 1, 0],
    [1, 0, 0, 1],
    [1, 0, 1, 0],
    [1, 1, 0, 0],
];

/// The way in which a vendor's product ends.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// It closes its session, and its proxies continue to serve.
    Close,
    /// It is killed with SIGKILL.
    Kill,
}

const STOPS: [[Stop; 2]; 4] = [
    [Stop::Close, Stop::Close],
    [Stop::Close, Stop::Kill],
    [Stop::Kill, Stop::Close],
    [Stop::Kill, Stop::Kill],
];

/// Starts an origin that sends "origin" to each client, and closes the connection.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"origin");
        }
    });
    address
}

/// What a client must read while these vendors' products run: the names of their services in order,
/// and then "origin".
fn expected_reply(running: [bool; 2]) -> String {
    let names = WEIGHTS.iter().zip(running).filter(|(_, runs)| *runs);
    let services = names.flat_map(|((name, _), _)| [format!("{name}1 "), format!("{name}2 ")]);
    services.collect::<String>() + "origin"
}

fn objects(state: &v1::State) -> [u32; 4] {
    [
        state.providers,
        state.sublayers,
        state.services,
        state.filters,
    ]
}

/// Stops a vendor's product. Returns its process if that still serves.
fn stop(mut vendor: Process, stop: Stop) -> Option<Process> {
    match stop {
        Stop::Close => {
            vendor.send_line("close");
            Some(vendor)
        }
        Stop::Kill => {
            vendor.kill();
            None
        }
    }
}

/// Starts and stops both vendors' products in this order, and checks what a client reads after each
/// step.
fn start_and_stop(host: &Host, daemon: &Daemon, api: &mut Api, order: Order, stops: [Stop; 2]) {
    let origin = origin().to_string();
    let objects_before = objects(&api.state());
    let mut vendors = [None, None];
    let mut closed = Vec::new();
    for (step, index) in order.into_iter().enumerate() {
        match vendors[index].take() {
            None => {
                let (name, weight) = WEIGHTS[index];
                vendors[index] = Some(Process::vendor(
                    &host.service_cgroup,
                    &daemon.socket(),
                    name,
                    weight,
                ));
            }
            Some(vendor) => {
                let before = api.state();
                closed.extend(stop(vendor, stops[index]));
                wait::until("the session's end is in force", || {
                    api.state().generation != before.generation
                });
                let after = api.state();
                assert_eq!(
                    after.generation,
                    before.generation + 1,
                    "the end of the session is one commit"
                );
                let removed: Vec<u32> = objects(&before)
                    .into_iter()
                    .zip(objects(&after))
                    .map(|(before, after)| before - after)
                    .collect();
                assert_eq!(removed, [1, 1, 2, 4]);
            }
        }
        let running = [vendors[0].is_some(), vendors[1].is_some()];
        let report = host.connect(&origin);
        assert_eq!(
            report["reply"],
            expected_reply(running),
            "{order:?}, step {step}: {report}"
        );
        assert_eq!(report["peer"], origin);
    }
    assert_eq!(objects(&api.state()), objects_before);
}

/// The products start and stop in every order, and each closes its session or is killed.
#[test]
fn each_connection_sees_each_running_service_once_and_in_order() {
    let host = Host::without_engine("vendors");
    let daemon = Daemon::attached(&host);
    let mut api = daemon.api();
    for order in ORDERS {
        for stops in STOPS {
            start_and_stop(&host, &daemon, &mut api, order, stops);
        }
    }
}

/// A vendor's product closes its session while its proxies still serve. No connection fails.
#[test]
fn vendor_that_starts_and_stops_breaks_no_connection() {
    const TIMES: usize = 10;
    let host = Host::without_engine("vendors_start_stop");
    let daemon = Daemon::attached(&host);
    let mut api = daemon.api();
    let origin = origin().to_string();
    let _beta = Process::vendor(&host.service_cgroup, &daemon.socket(), "beta", 100);
    let mut client = host.client(&["connect-each"]);
    // Number of connections that only beta has seen, and of those that both have seen.
    let mut counts = [0, 0];
    let mut connect = || {
        client.send_line(&origin);
        let report = client.json_line();
        let reply = report["reply"].as_str().unwrap_or_default().to_owned();
        let only_beta = expected_reply([false, true]);
        let known = [only_beta.clone(), expected_reply([true, true])]
            .iter()
            .position(|expected| *expected == reply);
        // The outgoing connect of acme's first service may already be classified by the next policy.
        let by_two_policies = reply == format!("acme1 {only_beta}");
        if !by_two_policies {
            counts[known.unwrap_or_else(|| panic!("{report}"))] += 1;
        }
    };
    for _ in 0..TIMES {
        let before = api.state().generation;
        let mut acme = Process::vendor(&host.service_cgroup, &daemon.socket(), "acme", 200);
        connect();
        let filters = api.state().filters;
        acme.send_line("close");
        wait::until("the session's end is in force", || {
            connect();
            api.state().filters < filters
        });
        assert!(api.state().generation > before);
        connect();
    }
    assert!(counts.iter().all(|times| *times >= TIMES), "{counts:?}");
}
