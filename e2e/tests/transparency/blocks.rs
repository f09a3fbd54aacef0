//! What a policy or a rule refuses: the client learns that it may not connect.

use std::net::TcpListener;

use e2e::comparison::{Comparison, same};
use e2e::policy::{both_families, port, redirect_tcp};
use e2e::{FarHost, Host, netns};
use sidetrack_policy::redirect::in_order;
use sidetrack_policy::{Action, LayerKind};

use crate::{ConnectProgram, MODES};

const BLOCKED: u16 = 4001;
const LISTENS: u16 = 4000;

#[test]
fn a_block_at_the_hook_is_eacces() {
    let program = ConnectProgram::compile();
    let connect = program.path().display().to_string();
    netns::enter();
    let _listeners = ["127.0.0.1", "::1"]
        .map(|address| TcpListener::bind((address, BLOCKED)).expect("the namespace is new"));
    let mut host = Host::new("transparency_block");
    let service = host.service("inspect");
    let _proxy = host.relay(&service);
    let redirects = in_order([redirect_tcp(&service)]);
    let blocks = both_families(
        LayerKind::AuthConnect,
        1000,
        Action::Block,
        &[port(BLOCKED.into())],
    );
    host.commit(&[redirects, blocks.to_vec()].concat(), &[]);
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        for mode in MODES {
            let outcome = host
                .run(&[&connect, mode, address, &BLOCKED.to_string()])
                .wait();
            assert_eq!(outcome.stdout, "EACCES\n", "{mode} {address}: {outcome:?}");
        }
    }
}

#[test]
fn a_rule_on_addresses_refuses_the_connect_and_the_origin_sees_nothing() {
    let program = ConnectProgram::compile();
    let connect = program.path().display().to_string();
    netns::enter();
    let far = FarHost::start();
    let [v4, v6] = FarHost::FAR;
    let listeners = far.inside(|| {
        [v4, v6].map(|address| TcpListener::bind((address, LISTENS)).expect("a new namespace"))
    });
    let mut script = String::new();
    let mut names = Vec::new();
    for (address, errno) in [(v4, "EHOSTUNREACH"), (v6, "EACCES")] {
        for mode in MODES {
            let name = format!("{mode} {address}");
            script += &format!("row '{name}' timeout 10 {connect} {mode} {address} {LISTENS}\n");
            names.push((name, errno));
        }
    }
    let comparison = Comparison::redirected_with(&["--deny", v4, "--deny", v6], &script);
    // No ICMP message of IPv4 leads to EACCES.
    let expected: Vec<_> = names
        .iter()
        .map(|(name, errno)| same(name, errno))
        .collect();
    comparison.assert_rows(&expected);
    for column in comparison.redirected() {
        let lines = column.lines_of("p1");
        assert_eq!(lines.len(), names.len(), "{}: {lines:?}", column.title());
        for line in lines {
            assert_eq!(line["verdict"], "deny", "{}: {line}", column.title());
        }
    }
    for listener in listeners {
        listener
            .set_nonblocking(true)
            .expect("the listener is open");
        let nothing = listener.accept().expect_err("no connection came");
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
}
