//! A port at which nobody listens: a client must not take it for one that works.

use std::net::TcpListener;

use e2e::comparison::{Comparison, same};
use e2e::{netns, programs};

use crate::{DEAD, NC, NMAP, file};

#[test]
fn a_dead_port_is_dead() {
    programs::require(&[NC, ("ncat", "ncat")]);
    netns::enter();
    let python = file("errors.py");
    let comparison = Comparison::of(&format!(
        "row bash tries 20 bash -c '</dev/tcp/127.0.0.1/{DEAD}'
         row 'bash over IPv6' tries 20 bash -c '</dev/tcp/::1/{DEAD}'
         row nc tries 20 nc -z 127.0.0.1 {DEAD}
         row 'nc over IPv6' tries 20 nc -z ::1 {DEAD}
         row ncat tries 5 ncat -z 127.0.0.1 {DEAD}
         python3 {python} 127.0.0.1 {DEAD}
         python3 {python} ::1 {DEAD}"
    ));
    comparison.assert_rows(&[
        same("bash", "0 of 20"),
        same("bash over IPv6", "0 of 20"),
        same("nc", "0 of 20"),
        same("nc over IPv6", "0 of 20"),
        same("ncat", "0 of 5"),
        same("python create_connection 127.0.0.1", "ECONNREFUSED"),
        same("python connect 127.0.0.1", "ECONNREFUSED"),
        same("python asyncio 127.0.0.1", "ECONNREFUSED"),
        same("python create_connection ::1", "ECONNREFUSED"),
        same("python connect ::1", "ECONNREFUSED"),
        same("python asyncio ::1", "ECONNREFUSED"),
    ]);
}

#[test]
fn nmap_finds_the_open_port_and_each_connection_has_its_line() {
    const OPEN: u16 = 22_960;
    programs::require(&[NMAP]);
    netns::enter();
    let _listener = TcpListener::bind(("127.0.0.1", OPEN)).expect("the namespace is new");
    let comparison = Comparison::of(
        "scan() { nmap -n -Pn -sT \"$@\" | grep -E '^(Not shown|[0-9]+/tcp)' | xargs; }
         row scan scan -p 22950-22979 127.0.0.1
         row 'scan over IPv6' scan -6 -p 22950-22979 ::1",
    );
    comparison.assert_rows(&[
        same(
            "scan",
            "Not shown: 29 closed tcp ports (conn-refused) 22960/tcp open unknown",
        ),
        same(
            "scan over IPv6",
            "Not shown: 30 closed tcp ports (conn-refused)",
        ),
    ]);
    for column in comparison.redirected() {
        for service in column.services() {
            let lines = column.lines_of(&service);
            let mut destinations: Vec<_> = lines
                .iter()
                .map(|line| line["destination"].to_string())
                .collect();
            destinations.sort();
            destinations.dedup();
            let title = column.title();
            assert_eq!(
                destinations.len(),
                60,
                "{title}, {service}: {destinations:?}"
            );
        }
    }
}
