//! `sidetrack run` as in a container, in which cgroups have other paths, and processes other numbers.

use std::io;
use std::net::TcpStream;

use e2e::run::Run;
use e2e::{Host, Process, client_binary, netns};

const ENTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/namespaces/enter");
/// An address without a listener. The flow line shows that a connection to it was redirected.
const UNUSED: &str = "127.0.0.9:81";

/// A shell command that prints its process id, and then connects to [`UNUSED`] with that id.
fn connect() -> String {
    format!(
        "echo $$; exec {} connect {UNUSED} >&2",
        client_binary().display()
    )
}

#[test]
fn programs_in_a_container_are_redirected_and_shown_with_its_process_ids() {
    let host = Host::without_engine("container");
    let cgroup = host.root().path().display().to_string();
    // As in a container, process 1 stays. So the program has another number.
    let wrapper = [ENTER, &cgroup, "sh", "-c", "\"$@\"; exit $?", "sh"];
    let ended = Run::with_wrapper(&wrapper, &[], &["sh", "-c", &connect()]).wait();
    let [flow] = &ended.flows[..] else {
        panic!("there is not one flow: {ended:?}");
    };
    assert_eq!(flow["destination"], UNUSED, "{ended:?}");
    let pid = ended.outcome.stdout.trim();
    assert_eq!(flow["program"]["pid"].to_string(), pid, "{ended:?}");
}

#[test]
fn legacy_proxies_in_a_container_are_recognised() {
    let host = Host::without_engine("container_legacy");
    let cgroup = host.root().path().display().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("haproxy.cfg");
    // Without `retries 0` HAProxy would repeat its failed connect, which would be a second flow.
    let text = "defaults\n mode tcp\n retries 0\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                listen relay\n bind 127.0.0.1:9999\n server origin 0.0.0.0:0\n";
    std::fs::write(&config, text).expect("the configuration is written");
    let script = format!("haproxy -D -f {} && \"$@\"; exit $?", config.display());
    let wrapper = [ENTER, &cgroup, "sh", "-c", &script, "sh"];
    let options = ["--via", "tcp://127.0.0.1:9999", "--via", "inspect"];
    let ended = Run::with_wrapper(&wrapper, &options, &["sh", "-c", &connect()]).wait();
    let [flow] = &ended.flows[..] else {
        panic!("there is not one flow of HAProxy's outgoing connection: {ended:?}");
    };
    assert_eq!(flow["destination"], UNUSED, "{ended:?}");
    assert_eq!(flow["program"]["comm"], "haproxy", "{ended:?}");
}

#[test]
fn engine_in_a_pid_namespace_recognises_services_outside_of_it() {
    netns::enter(); // a killed engine leaves a route in its network namespace
    let host = Host::without_engine("container_apart");
    let mut engine = Process::engine_in_pid_namespace(host.root(), &host.service_cgroup);
    let service = engine.service();
    host.enter_service_cgroup();
    let _listener = sidetrack::Listener::bind(&service).expect("the listener is marked");
    // The proxy's connection without records would be redirected to the proxy, if it were not
    // recognised.
    let refused = TcpStream::connect("10.1.2.3:80").expect_err("the connect is the proxy's");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    host.leave_scope();
}
