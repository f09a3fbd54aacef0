//! Lines of connections that were reset, that failed, or that a rule refuses.

use std::net::TcpListener;

use e2e::comparison::{Comparison, same};
use e2e::netns;

use crate::{DEAD, file};

#[test]
fn connections_that_are_reset_immediately_have_their_lines() {
    netns::enter();
    let origin = TcpListener::bind("127.0.0.1:4000").expect("the namespace is new");
    let origin6 = TcpListener::bind("[::1]:4000").expect("the namespace is new");
    for listener in [origin, origin6] {
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    let python = file("resets.py");
    let comparison = Comparison::of(&format!(
        "row IPv4 python3 {python} 50 127.0.0.1 4000
         row IPv6 python3 {python} 50 ::1 4000"
    ));
    comparison.assert_rows(&[same("IPv4", "50"), same("IPv6", "50")]);
    for column in comparison.redirected() {
        let stderr = &column.ended.outcome.stderr;
        assert!(
            stderr.contains("100 connections"),
            "{}: {stderr}",
            column.title()
        );
        for service in column.services() {
            let lines = column.lines_of(&service);
            assert_eq!(lines.len(), 100, "{}, {service}", column.title());
        }
    }
}

#[test]
fn the_lines_of_a_refused_connect_have_its_reason_at_each_hop() {
    netns::enter();
    let comparison = Comparison::of(&format!(
        "row IPv4 tries 1 bash -c '</dev/tcp/127.0.0.1/{DEAD}'
         row IPv6 tries 1 bash -c '</dev/tcp/::1/{DEAD}'"
    ));
    comparison.assert_rows(&[same("IPv4", "0 of 1"), same("IPv6", "0 of 1")]);
    for column in comparison.redirected() {
        for service in column.services() {
            let lines = column.lines_of(&service);
            assert_eq!(lines.len(), 2, "{}, {service}", column.title());
            for line in lines {
                let ended = line["ended"].as_str().unwrap_or_default();
                assert!(ended.contains("refused"), "{}: {line}", column.title());
                assert_ne!(line["verdict"], "allow", "{}: {line}", column.title());
            }
        }
    }
}
