//! `sidetrack run` as in a container, whose cgroups and processes have paths and numbers of their own.

use std::io;
use std::net::TcpStream;

use e2e::run::Run;
use e2e::{Host, Process, client_binary, netns};

const ENTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/namespaces/enter");
/// Nobody listens there: that a connection was made is to be seen by the flow's line.
const NOWHERE: &str = "127.0.0.9:81";

/// A command of the shell that says its number, and then connects there.
fn connect() -> String {
    format!(
        "echo $$; exec {} connect {NOWHERE} >&2",
        client_binary().display()
    )
}

#[test]
fn programs_in_a_container_are_judged_and_known_by_its_numbers() {
    let host = Host::bare("container");
    let cgroup = host.root().path().display().to_string();
    // The first process does not go away, as in containers: programs are not number 1.
    let wrapper = [ENTER, &cgroup, "sh", "-c", "\"$@\"; exit $?", "sh"];
    let ended = Run::through(&wrapper, &[], &["sh", "-c", &connect()]).wait();
    let [flow] = &ended.flows[..] else {
        panic!("one connection: {ended:?}");
    };
    assert_eq!(flow["destination"], NOWHERE, "{ended:?}");
    let number = ended.outcome.stdout.trim();
    assert_eq!(flow["program"]["pid"].to_string(), number, "{ended:?}");
}

#[test]
fn legacy_proxies_in_a_container_are_known() {
    let host = Host::bare("container_legacy");
    let cgroup = host.root().path().display().to_string();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let config = folder.path().join("haproxy.cfg");
    // Nothing listens at the destination, and HAProxy would try again: that would be a second flow.
    let text = "defaults\n mode tcp\n retries 0\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                listen relay\n bind 127.0.0.1:9999\n server origin 0.0.0.0:0\n";
    std::fs::write(&config, text).expect("a file can be written");
    let script = format!("haproxy -D -f {} && \"$@\"; exit $?", config.display());
    let wrapper = [ENTER, &cgroup, "sh", "-c", &script, "sh"];
    let options = ["--via", "tcp://127.0.0.1:9999", "--via", "inspect"];
    let ended = Run::through(&wrapper, &options, &["sh", "-c", &connect()]).wait();
    let [flow] = &ended.flows[..] else {
        panic!("HAProxy's connection goes on to the next service: {ended:?}");
    };
    assert_eq!(flow["destination"], NOWHERE, "{ended:?}");
    assert_eq!(flow["program"]["comm"], "haproxy", "{ended:?}");
}

#[test]
fn an_engine_in_a_container_knows_services_outside_of_it() {
    netns::enter(); // a killed engine's address stays
    let host = Host::bare("container_apart");
    let mut engine = Process::engine_apart(host.root(), &host.service);
    let service = engine.service();
    host.enter_service();
    let _listener = sidetrack::Listener::bind(&service).expect("it is accepted");
    // Its own connection, without records, would come back to it.
    let refused = TcpStream::connect("10.1.2.3:80").expect_err("it is the service's own");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    host.leave();
}
