//! Two vendors' products on one host, neither of which knows of the other.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use e2e::{Api, Daemon, Host, Process, wait};
use sidetrack_api::v1;

const WEIGHTS: [(&str, u16); 2] = [("acme", 200), ("beta", 100)];

/// Of one vendor; each comes twice in an order: it starts, then it stops.
type Order = [usize; 4];

const ORDERS: [Order; 6] = [
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    [0, 1, 1, 0],
    [1, 0, 0, 1],
    [1, 0, 1, 0],
    [1, 1, 0, 0],
];

#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The session is closed; the proxies go on.
    Close,
    /// SIGKILL.
    Kill,
}

const STOPS: [[Stop; 2]; 4] = [
    [Stop::Close, Stop::Close],
    [Stop::Close, Stop::Kill],
    [Stop::Kill, Stop::Close],
    [Stop::Kill, Stop::Kill],
];

/// Says "origin" to whoever comes.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"origin");
        }
    });
    address
}

/// What a connection hears on its way, while these vendors are there.
fn way(there: [bool; 2]) -> String {
    let names = WEIGHTS.iter().zip(there).filter(|(_, there)| *there);
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

fn stop(mut vendor: Process, how: Stop) -> Option<Process> {
    match how {
        Stop::Close => {
            vendor.tell("close");
            Some(vendor)
        }
        Stop::Kill => {
            vendor.kill();
            None
        }
    }
}

fn live(host: &Host, daemon: &Daemon, api: &mut Api, order: Order, stops: [Stop; 2]) {
    let origin = origin().to_string();
    let nothing = objects(&api.state());
    let mut vendors = [None, None];
    let mut closed = Vec::new();
    for (step, at) in order.into_iter().enumerate() {
        match vendors[at].take() {
            None => {
                let (name, weight) = WEIGHTS[at];
                vendors[at] = Some(Process::vendor(&host.service, daemon, name, weight));
            }
            Some(vendor) => {
                let before = api.state();
                closed.extend(stop(vendor, stops[at]));
                wait::until("the session's end is in force", || {
                    api.state().generation != before.generation
                });
                let after = api.state();
                assert_eq!(after.generation, before.generation + 1, "it is one commit");
                let gone: Vec<u32> = objects(&before)
                    .into_iter()
                    .zip(objects(&after))
                    .map(|(before, after)| before - after)
                    .collect();
                assert_eq!(gone, [1, 1, 2, 4]);
            }
        }
        let there = [vendors[0].is_some(), vendors[1].is_some()];
        let told = host.connect(&origin);
        assert_eq!(told["reply"], way(there), "{order:?}, step {step}: {told}");
        assert_eq!(told["peer"], origin);
    }
    assert_eq!(objects(&api.state()), nothing);
}

/// In every order, and whether they close their sessions or are killed.
#[test]
fn each_connection_sees_each_live_service_once_and_in_order() {
    let host = Host::bare("vendors");
    let daemon = Daemon::attached(&host);
    let mut api = daemon.api();
    for order in ORDERS {
        for stops in STOPS {
            live(&host, &daemon, &mut api, order, stops);
        }
    }
}

/// A vendor that closes its session while its proxies still serve takes no connection with it.
#[test]
fn vendor_that_comes_and_goes_refuses_nobody() {
    const TIMES: usize = 10;
    let host = Host::bare("vendors_come_and_go");
    let daemon = Daemon::attached(&host);
    let mut api = daemon.api();
    let origin = origin().to_string();
    let _beta = Process::vendor(&host.service, &daemon, "beta", 100);
    let mut ask = host.client(&["ask"]);
    let mut ways = [0, 0];
    let mut connect = || {
        ask.tell(&origin);
        let told = ask.line();
        let heard = told["reply"].as_str().unwrap_or_default().to_owned();
        let way = [way([false, true]), way([true, true])]
            .iter()
            .position(|way| *way == heard);
        // From behind acme's first service on, the next policy may judge.
        let amid = heard == format!("acme1 {}", self::way([false, true]));
        if !amid {
            ways[way.unwrap_or_else(|| panic!("{told}"))] += 1;
        }
    };
    for _ in 0..TIMES {
        let before = api.state().generation;
        let mut acme = Process::vendor(&host.service, &daemon, "acme", 200);
        connect();
        let filters = api.state().filters;
        acme.tell("close");
        wait::until("the session's end is in force", || {
            connect();
            api.state().filters < filters
        });
        assert!(api.state().generation > before);
        connect();
    }
    assert!(ways.iter().all(|times| *times >= TIMES), "{ways:?}");
}
