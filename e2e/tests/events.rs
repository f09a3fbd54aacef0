//! Events of connections: which flow and which program they name, and that readers learn how many
//! were lost.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use e2e::policy::{both_families, port, redirect_tcp, redirect_udp, sublayer};
use e2e::run::Run;
use e2e::{Daemon, EchoOrigin, Follower, Host, Origin, client_binary, netns, send_signal, wait};
use rustix::process::Signal;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_policy::redirect::in_order;
use sidetrack_policy::{Action, Filter, LayerKind, Uuid};

/// The port of the origins.
const PORT: u16 = 8080;
/// Layers that are classified for a connection that a program opens.
const OUTBOUND: [LayerKind; 4] = [
    LayerKind::ConnectRedirect,
    LayerKind::AuthConnect,
    LayerKind::FlowEstablished,
    LayerKind::EndpointClosure,
];

/// Inspect filters for connections to [`PORT`], at these layers.
fn inspectors(layers: &[LayerKind]) -> Vec<Filter> {
    let all = (1..)
        .zip(layers)
        .flat_map(|(id, &kind)| both_families(kind, id, Action::Inspect, &[port(PORT.into())]));
    all.map(|filter| Filter {
        sublayer: Uuid::from_u128(1),
        ..filter
    })
    .collect()
}

/// Reads events until some satisfy the condition. Returns all inspected ones.
fn inspected(host: &mut Host, what: &str, is_complete: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let mut all = Vec::new();
    wait::until(what, || {
        let new = host.engine().events(Duration::from_millis(1));
        let new = new.expect("events are readable").into_iter();
        all.extend(new.filter(|event| event.kind == EventKind::Inspected));
        is_complete(&all)
    });
    all
}

/// The layers, and whether the test's own process connected, of these events.
fn sides(events: &[Event], destination: SocketAddr) -> BTreeSet<(LayerKind, bool)> {
    let own = std::process::id();
    let to = events
        .iter()
        .filter(|event| event.destination == destination);
    to.map(|event| (event.layer.expect("it has a layer").kind, event.pid == own))
        .collect()
}

/// Lets a client communicate through a relay, and checks the flow of each event.
fn events_name_the_flow(test: &str, protocol: u8, destination: &str, arguments: &[&str]) {
    netns::enter();
    let mut host = Host::new(test);
    host.leave_scope();
    let (_tcp_origin, _udp_origin) = (Origin::start(destination), EchoOrigin::start(destination));
    host.enter_service_cgroup();
    let service = host.service("inspect");
    let destination: SocketAddr = destination.parse().unwrap();
    let redirects = in_order([redirect_tcp(&service), redirect_udp(&service)]);
    let filters = [inspectors(&OUTBOUND), redirects].concat();
    let tcp = host.relay(&service);
    let udp = host.relay_datagrams(&service);
    host.commit(&filters, &[sublayer(1, 100)]);
    let report = host.client(arguments).json();
    assert_eq!(report["ok"], true, "{report}");
    let flow = match protocol {
        6 => tcp.flows()[0].id(),
        _ => udp.flows()[0].id(),
    };
    // The program is not the test's process, and the proxy is. The proxy's sockets for UDP stay
    // open, and an unconnected one has no destination when it closes.
    let both = OUTBOUND
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)]);
    let is_wanted = |(kind, by_proxy): &(LayerKind, bool)| {
        *kind != LayerKind::EndpointClosure
            || protocol == 6
            || (!by_proxy && arguments.contains(&"--connected"))
    };
    let wanted: BTreeSet<_> = both.filter(is_wanted).collect();
    let events = inspected(&mut host, "all layers are reported", |events| {
        sides(events, destination).is_superset(&wanted)
    });
    for event in events
        .iter()
        .filter(|event| event.destination == destination)
    {
        let kind = event.layer.expect("it has a layer").kind;
        let by_proxy = event.pid == std::process::id();
        let is_before_the_flow =
            !by_proxy && matches!(kind, LayerKind::ConnectRedirect | LayerKind::AuthConnect);
        let expected = if is_before_the_flow { 0 } else { flow };
        assert_eq!(event.flow_id, expected, "{event:?}");
    }
}

#[test]
fn events_of_tcp_over_ipv4_name_the_flow() {
    let to = "127.0.0.1:8080";
    events_name_the_flow("events_tcp4", 6, to, &["connect", to, "--send", "x"]);
}

#[test]
fn events_of_tcp_over_ipv6_name_the_flow() {
    let to = "[::1]:8080";
    events_name_the_flow("events_tcp6", 6, to, &["connect", to, "--send", "x"]);
}

#[test]
fn events_of_connected_datagrams_name_the_flow() {
    let to = "127.0.0.1:8080";
    events_name_the_flow("events_udp4", 17, to, &["datagrams", to, "--connected"]);
}

#[test]
fn events_of_unconnected_datagrams_name_the_flow() {
    let to = "[::1]:8080";
    events_name_the_flow("events_udp6", 17, to, &["datagrams", to]);
}

#[test]
fn events_name_the_executable_and_not_only_the_task() {
    netns::enter();
    let mut host = Host::new("events_program");
    let origin = Origin::start("127.0.0.1:8080");
    let to = origin.address.to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The task is named after the link, which is the path that is executed.
    let link = folder.path().join("worker-0000");
    symlink(client_binary(), &link).expect("the link is made");
    let long = folder
        .path()
        .join("a-program-with-a-name-of-more-than-31-bytes");
    fs::copy(client_binary(), &long).expect("the program is copied");
    let layers = [LayerKind::AuthConnect, LayerKind::FlowEstablished];
    host.commit(&inspectors(&layers), &[sublayer(1, 100)]);
    for (path, comm, executable) in [
        (link, "worker-0000", "client"),
        (long, "a-program-with-", "a-program-with-a-name-of-more-t"),
    ] {
        let path = path.to_str().unwrap();
        let report = host.run(&[path, "connect", &to, "--send", "x"]).json();
        assert_eq!(report["ok"], true, "{report}");
        let events = inspected(&mut host, "both layers are reported", |events| {
            let named = events.iter().filter(|event| event.comm == comm);
            named.count() == layers.len()
        });
        for event in events.iter().filter(|event| event.comm == comm) {
            assert_eq!(event.executable, executable, "{event:?}");
            assert_eq!(event.program(), executable);
        }
    }
}

const ABSENT_POLICY: &str = r#"
service = [{ name = "absent" }]
filter = [{ name = "all", layer = "connect-redirect", action = { redirect = "absent" },
            protocol = "tcp", remote_address = "10.0.0.0/8" }]
"#;

#[test]
fn followers_of_the_daemon_receive_the_number_of_events_that_the_kernel_lost() {
    let host = Host::without_engine("events_lost");
    let daemon = Daemon::attached(&host);
    daemon.apply(ABSENT_POLICY);
    host.connect("10.9.9.9:80");
    let mut follower = Follower::start(&daemon, "absent-blocked");
    // The follower has subscribed once the first event reaches it.
    let first = follower.next_event();
    assert_eq!(first["remote"], "10.9.9.9:80", "{first}");
    let first = first["sequence"].as_u64().expect("a number");
    send_signal(daemon.pid(), Signal::STOP);
    let storm = host
        .client(&["storm", "--threads", "4", "--count", "2000"])
        .json();
    send_signal(daemon.pid(), Signal::CONT);
    assert_eq!(storm["good"], 0, "{storm}");
    // The daemon reads all events between two queries, so that the ring has room for a last one.
    for _ in 0..2 {
        daemon.sidetrack(&["state"]);
    }
    host.connect("10.8.8.8:80");
    // The numbers of all events have no gap.
    let (mut received, mut missed, mut last) = (0, 0, first);
    loop {
        let event = follower.next_event();
        match event["kind"].as_str() {
            Some("missed") => missed += event["missed"].as_u64().expect("a number"),
            _ => received += 1,
        }
        last = event["sequence"].as_u64().unwrap_or(last).max(last);
        if event["remote"] == "10.8.8.8:80" {
            break;
        }
    }
    assert!(missed > 0, "the ring was full");
    assert!(received + missed >= 8001, "{received} and {missed}");
    assert_eq!(received + missed, last - first);
}

#[test]
fn run_reports_how_many_events_the_kernel_lost() {
    let program = client_binary().display().to_string();
    let script = format!(
        "read line; {program} flood --datagrams 8000 --first 10.0.0.1:443; touch $FLOWS.done; read line"
    );
    let mut started = Run::new(&["--quic", "refuse"], &["sh", "-c", &script]).start();
    started.processes("program");
    let done = started.flows_file().with_extension("done");
    send_signal(started.pid(), Signal::STOP);
    started.send_line("flood");
    wait::until("the flood is over", || done.exists());
    send_signal(started.pid(), Signal::CONT);
    started.await_stderr("lost, because the kernel's ring buffer was full");
    started.send_line("end");
    let ended = started.wait();
    assert!(ended.outcome.stderr.contains("events dropped"), "{ended:?}");
    assert!(
        ended.outcome.stderr.contains("client["),
        "the program is named by its executable: {ended:?}"
    );
}
