//! Legacy proxies, HAProxy and V2Ray, at several positions of a chain.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use e2e::HttpOrigin;
use e2e::run::{ForeignDaemon, Run, free_port};

const HAPROXY: &str = "
global
    nbthread 1
    maxconn 500
    stats socket {folder}/stats
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen transparent
    bind 127.0.0.1:PORT transparent
    server original 0.0.0.0:0
";

const V2RAY: &str = r#"{
    "log": { "access": "{folder}/access", "loglevel": "warning" },
    "inbounds": [{
        "listen": "127.0.0.1", "port": PORT, "protocol": "dokodemo-door",
        "settings": { "network": "tcp", "followRedirect": true }
    }],
    "outbounds": [{ "protocol": "freedom" }]
}"#;

/// A running legacy proxy.
struct Legacy {
    daemon: ForeignDaemon,
    /// The argument of `--via` that names it.
    via: String,
    /// Number of connections that it had accepted before the test.
    before: u64,
}

fn haproxy(test: &str) -> Legacy {
    let port = free_port();
    let configuration = HAPROXY.replace("PORT", &port.to_string());
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let daemon = ForeignDaemon::start(test, &["haproxy", "-db", "-f", "{}"], &configuration, at);
    let before = haproxy_connections(&daemon);
    Legacy {
        daemon,
        via: format!("tcp://{at}"),
        before,
    }
}

/// Number of connections that HAProxy has accepted, from its statistics.
fn haproxy_connections(daemon: &ForeignDaemon) -> u64 {
    let socket = UnixStream::connect(daemon.folder.path().join("stats"));
    let mut socket = socket.expect("HAProxy listens");
    socket
        .write_all(b"show stat\n")
        .expect("HAProxy reads the command");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .expect("HAProxy answers the command");
    let row = answer
        .lines()
        .find(|line| line.starts_with("transparent,FRONTEND"))
        .expect("the frontend has a row");
    row.split(',')
        .nth(7)
        .and_then(|total| total.parse().ok())
        .expect("stot is a number")
}

fn v2ray(test: &str) -> Legacy {
    let port = free_port();
    let configuration = V2RAY.replace("PORT", &port.to_string());
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let daemon = ForeignDaemon::start(test, &["v2ray", "-config", "{}"], &configuration, at);
    Legacy {
        daemon,
        via: format!("tcp://{at}"),
        before: 0,
    }
}

/// Number of connections that V2Ray has relayed to this origin, from its log.
fn v2ray_connections(daemon: &ForeignDaemon, origin: SocketAddr) -> usize {
    let log = std::fs::read_to_string(daemon.folder.path().join("access")).unwrap_or_default();
    log.lines()
        .filter(|line| line.contains("accepted") && line.contains(&origin.to_string()))
        .count()
}

/// Runs curl through this chain. The origin must see one connection. Returns the flow lines.
fn curl_through(chain: &[&str], origin: &HttpOrigin) -> Vec<serde_json::Value> {
    let options: Vec<&str> = chain.iter().flat_map(|via| ["--via", via]).collect();
    let url = format!("http://{}/", origin.address);
    let before = origin.accepted();
    let ended = Run::new(&options, &["curl", "-sS", "-m", "15", &url]).wait();
    assert_eq!(ended.outcome.stdout, "origin", "{chain:?}: {ended:?}");
    assert_eq!(origin.accepted() - before, 1, "{chain:?}: {ended:?}");
    ended.flows
}

/// The chains of these flow lines, sorted, each with its names separated by spaces.
fn chains(flows: &[serde_json::Value]) -> Vec<String> {
    let mut chains: Vec<String> = flows
        .iter()
        .map(|flow| {
            let names: Vec<&str> = flow["chain"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap())
                .collect();
            names.join(" ")
        })
        .collect();
    chains.sort();
    chains
}

#[test]
fn haproxy_before_and_behind_inspect() {
    let origin = HttpOrigin::start();
    let legacy = haproxy("legacy_haproxy");
    let name = legacy.via.trim_start_matches("tcp://");
    let flows = curl_through(&["inspect", &legacy.via], &origin);
    assert_eq!(chains(&flows), ["inspect"]);
    let flows = curl_through(&[&legacy.via, "inspect"], &origin);
    assert_eq!(chains(&flows), [format!("{name} inspect")]);
    assert_eq!(haproxy_connections(&legacy.daemon) - legacy.before, 2);
}

#[test]
fn v2ray_before_and_behind_inspect() {
    let origin = HttpOrigin::start();
    let legacy = v2ray("legacy_v2ray");
    let name = legacy.via.trim_start_matches("tcp://");
    let flows = curl_through(&["inspect", &legacy.via], &origin);
    assert_eq!(chains(&flows), ["inspect"]);
    let flows = curl_through(&[&legacy.via, "inspect"], &origin);
    assert_eq!(chains(&flows), [format!("{name} inspect")]);
    assert_eq!(v2ray_connections(&legacy.daemon, origin.address), 2);
}

#[test]
fn two_legacy_proxies_in_one_chain_each_see_a_connection_once() {
    let origin = HttpOrigin::start();
    let (first, second) = (haproxy("legacy_two"), v2ray("legacy_two"));
    curl_through(&[&first.via, &second.via], &origin);
    curl_through(&[&second.via, &first.via], &origin);
    curl_through(
        &[
            "inspect:a",
            &first.via,
            "inspect:b",
            &second.via,
            "inspect:c",
        ],
        &origin,
    );
    assert_eq!(haproxy_connections(&first.daemon) - first.before, 3);
    assert_eq!(v2ray_connections(&second.daemon, origin.address), 3);
}

#[test]
fn legacy_proxy_does_not_loop_if_the_destination_is_the_proxy() {
    let legacy = haproxy("legacy_itself");
    let url = legacy.via.replace("tcp://", "http://");
    let ended = Run::new(&["--via", &legacy.via], &["curl", "-sS", "-m", "15", &url]).wait();
    assert_ne!(ended.outcome.code, Some(0));
    let message = "refused: the destination is the proxy";
    assert!(ended.outcome.stderr.contains(message), "{ended:?}");
    assert_eq!(haproxy_connections(&legacy.daemon) - legacy.before, 1);
}
