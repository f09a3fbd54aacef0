//! Limits, and what happens when one is reached (ARCHITECTURE.md, What must always hold, 4, 9 and 11).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::policy::{prefix, redirect_tcp};
use e2e::{Client, Host, Origin, RunningProxy, listen_marked, listen_shared, netns, wait};
use sidetrack_abi::kernel;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{
    Cgroup, Config, Engine, Error, RedirectContext, RegisteredService, ServiceSpec,
};
use sidetrack_policy::Code;
use sidetrack_policy::redirect::{Redirect, in_order};

/// A host with room for eight flows, and a proxy that answers like an origin and keeps each
/// connection open.
fn eight_flows(test: &str) -> (Host, RunningProxy) {
    eight_flows_with_grace(test, Config::default().grace)
}

fn eight_flows_with_grace(test: &str, grace: Duration) -> (Host, RunningProxy) {
    let config = Config {
        flows_max: 8,
        grace,
        ..Config::default()
    };
    let mut host = Host::with_config(test, config);
    let service = host.service("inspect");
    let proxy = host.serve(&service, |mut stream, _| {
        stream.write_all(b"originx")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    host.redirect_all(&[&service]);
    (host, proxy)
}

/// Starts a client that keeps its connection open.
fn open_connection(host: &Host) -> Client {
    let mut client = host.client(&["connect", "10.1.2.3:80", "--send", "x", "--hold"]);
    assert_eq!(client.json_line()["ok"], true);
    client
}

#[test]
fn flow_beyond_the_limit_is_refused_and_reported() {
    let (mut host, _proxy) = eight_flows("flows_max");
    let mut open: Vec<_> = (0..8).map(|_| open_connection(&host)).collect();
    assert_eq!(host.flow_count(), 8);
    let report = host.connect_and_send("10.9.9.9:99", "x");
    assert_eq!(report["errno"], libc::ENOBUFS, "{report}");
    assert_eq!(host.count(Counter::FlowsFull), 1);
    host.await_event(EventKind::FlowsFull, "10.9.9.9:99");
    assert_eq!(host.flow_count(), 8, "no open flow was removed");

    // One connection is closed. Its grace period is cut short, because there is no other free slot.
    open.pop().expect("there are eight").wait();
    wait::until("there is room again", || {
        host.connect_and_send("10.1.2.3:80", "x")["ok"] == true
    });
    assert_eq!(host.count(Counter::GraceCut), 1);
    for client in open {
        assert_eq!(client.wait().code, Some(0), "the others stayed open");
    }
}

#[test]
fn closed_flows_make_room_and_are_counted() {
    let (host, _proxy) = eight_flows("give_way");
    for _ in 0..50 {
        let report = host.connect_and_send("10.1.2.3:80", "x");
        assert_eq!(report["ok"], true, "{report}");
        wait::until("there are at most eight flows", || host.flow_count() <= 8);
    }
    assert!(host.count(Counter::GraceCut) >= 40);
    assert_eq!(host.count(Counter::HandedOver), 50);
}

/// A host with room for eight flows, after 20 connects that were redirected and then failed for
/// lack of a route, before their SYN.
fn failed_before_their_syn(test: &str, grace: Duration) -> (Host, RunningProxy) {
    netns::enter();
    let (host, proxy) = eight_flows_with_grace(test, grace);
    netns::ip("route add unreachable 127.0.0.0/9 table local");
    for _ in 0..20 {
        let report = host.connect("10.1.2.3:80");
        assert_eq!(report["errno"], libc::EHOSTUNREACH, "{report}");
    }
    netns::ip("route del unreachable 127.0.0.0/9 table local");
    assert_eq!((host.flow_count(), host.count(Counter::FlowsFull)), (0, 0));
    (host, proxy)
}

#[test]
fn connects_that_fail_before_their_syn_occupy_few_slots() {
    let (host, _proxy) = failed_before_their_syn("before_syn", Duration::from_secs(600));
    let _open: Vec<_> = (0..7).map(|_| open_connection(&host)).collect();
    let report = host.connect_and_send("10.9.9.9:99", "x");
    assert_eq!(
        report["errno"],
        libc::ENOBUFS,
        "one slot may wait for a SYN: {report}"
    );
    assert_eq!(host.count(Counter::FlowsLost), 0);
}

#[test]
fn slots_of_connects_that_fail_before_their_syn_are_reused() {
    let grace = Duration::from_millis(50);
    let (host, _proxy) = failed_before_their_syn("after_syn", grace);
    let failed = Instant::now();
    wait::until("the grace period is over", || failed.elapsed() > grace);
    for _ in 0..8 {
        assert_eq!(host.connect_and_send("10.1.2.3:80", "x")["ok"], true); // each uses another slot
    }
    wait::until("these flows are closed", || host.flow_count() == 0);
    let _open: Vec<_> = (0..8).map(|_| open_connection(&host)).collect();
    assert_eq!(host.flow_count(), 8);
    assert_eq!(host.count(Counter::FlowsLost), 0);
}

#[test]
fn client_sees_the_original_peer_after_the_proxy_has_closed() {
    let config = Config {
        flows_max: 8,
        ..Config::default()
    };
    let mut host = Host::with_config("proxy_gone", config);
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    host.program_cgroup
        .add(std::process::id())
        .expect("the process is moved");
    let client = TcpStream::connect("10.1.2.3:80").expect("the connect is redirected");
    host.enter_service_cgroup();
    drop(listener.accept().expect("the client connects"));
    for _ in 0..20 {
        let other = host.client(&["connect", "10.9.9.9:99"]);
        drop(listener.accept().expect("the client connects"));
        other.wait(); // its slot will soon be reused
    }
    let peer = client.peer_addr().expect("the socket is still connected");
    assert_eq!(peer.to_string(), "10.1.2.3:80");
    wait::until("the other flows have ended", || host.flow_count() == 1);
    drop(client);
    wait::until("this flow has ended too", || host.flow_count() == 0);
}

#[test]
fn connection_that_matches_no_filter_makes_no_flow() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("untouched");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy([redirect_tcp(&service).remote(prefix("10.0.0.0/8"))]);
    let to = origin.address.to_string();
    let report = host.connect_and_send(&to, "x");
    assert_eq!(
        (&report["reply"], &report["peer"]),
        (&"originx".into(), &to.into())
    );
    let counters = host.engine().counters().unwrap();
    assert_eq!(counters.flows, 0);
    assert!(counters.iter().all(|(_, count)| count == 0), "{counters:?}");
}

fn start_engine(scope: &Cgroup) -> Result<Engine, Error> {
    Engine::open(scope, Config::default())?.load()?.attach()
}

#[test]
fn second_engine_at_the_same_cgroup_above_or_below_is_refused() {
    let mut host = Host::without_engine("second_engine");
    let middle = host.program_cgroup.make("middle").unwrap();
    let below = middle.make("below").unwrap();
    host.engine = Some(start_engine(&middle).expect("the first engine may attach"));
    for cgroup in [&middle, &below, &host.program_cgroup] {
        let refused = start_engine(cgroup).map(drop);
        assert!(
            matches!(refused, Err(Error::AlreadyAttached(_))),
            "{refused:?}"
        );
    }
    // The home of a service must not be at another engine's scope either.
    let mut other = start_engine(&host.service_cgroup).expect("an engine at a sibling may attach");
    let refused = other.add_service(&ServiceSpec::new("x"), &middle).map(drop);
    assert!(
        matches!(refused, Err(Error::AlreadyAttached(_))),
        "{refused:?}"
    );
    drop(host.engine.take());
    start_engine(&middle).expect("the first engine has ended");
}

#[test]
fn service_255_works_and_the_next_is_refused() {
    let mut host = Host::new("services");
    let services: Vec<_> = (1..=255)
        .map(|number| host.service(&number.to_string()))
        .collect();
    let home = host.service_cgroup.path().to_owned();
    let home = Cgroup::at(&home).unwrap();
    let refused = host
        .engine()
        .add_service(&ServiceSpec::new("x"), &home)
        .map(drop);
    assert!(
        matches!(refused, Err(Error::TooManyServices)),
        "{refused:?}"
    );
    let last = services.last().unwrap();
    let proxy = host.answer(last);
    host.redirect_all(&[last]);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(proxy.flows()[0].chain().next(), Some("255"));
}

/// Redirects that match none of the test's connections.
fn unmatched(service: &RegisteredService, count: usize) -> Vec<Redirect> {
    vec![redirect_tcp(service).ports(1..=1); count]
}

/// Each redirect has a filter for each family, so these are 100,000 filters and two more.
#[test]
fn filter_50000_works_and_a_policy_of_50001_changes_nothing() {
    let mut host = Host::new("filters");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    let mut redirects = unmatched(&service, 49_999);
    redirects.push(redirect_tcp(&service));
    host.set_policy(redirects);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    let too_many = in_order(unmatched(&service, 50_001));
    let refused = host.engine().commit(&too_many, &[]);
    assert!(
        matches!(&refused, Err(Error::Policy(error)) if error.code == Code::OutOfBounds),
        "{refused:?}"
    );
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
}

#[test]
fn context_257_is_refused_and_changes_nothing() {
    let mut host = Host::new("contexts");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    let with = |number: u32| {
        let context = RedirectContext::Fixed(number.to_be_bytes().to_vec());
        redirect_tcp(&service).context(context)
    };
    host.set_policy((0..256).rev().map(with));
    let refused = host.engine().commit(&in_order([with(256)]), &[]);
    assert!(
        matches!(refused, Err(Error::TooManyContexts)),
        "{refused:?}"
    );
    host.connect("10.1.2.3:80");
    assert_eq!(proxy.flows()[0].context(), Some(&255_u32.to_be_bytes()[..]));
    host.set_policy([with(7)]); // contexts that exist can still be used
    host.connect("10.1.2.3:80");
    assert_eq!(proxy.flows()[1].context(), Some(&7_u32.to_be_bytes()[..]));
}

#[test]
fn unused_contexts_make_room_for_others() {
    let mut host = Host::new("contexts_reused");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    let with = |number: u32| {
        let context = RedirectContext::Fixed(number.to_be_bytes().to_vec());
        redirect_tcp(&service).context(context)
    };
    let accept = |host: &Host| {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        (listener.accept().expect("the client connects").0, client)
    };
    let context = |(stream, _): &(TcpStream, _)| {
        let flow = sidetrack::query(stream).expect("the connection was redirected");
        flow.context().map(<[u8]>::to_vec)
    };
    host.set_policy([with(0)]);
    let open = accept(&host);
    for number in 1..600 {
        host.set_policy([with(number)]);
    }
    let too_many = in_order((2_000..2_257).map(with));
    let refused = host.engine().commit(&too_many, &[]);
    assert!(matches!(refused, Err(Error::TooManyContexts)));
    host.set_policy([with(3_000)]); // the contexts of the refused policy take no room
    assert_eq!(
        context(&accept(&host)),
        Some(3_000_u32.to_be_bytes().to_vec())
    );
    assert_eq!(
        context(&open),
        Some(vec![0; 4]),
        "the context of an open connection stays"
    );
}

#[test]
fn events_over_the_rings_size_are_dropped_and_counted() {
    let mut host = Host::new("events");
    let service = host.service("absent");
    host.redirect_all(&[&service]);
    let report = host
        .client(&["storm", "--threads", "4", "--count", "2000"])
        .json();
    assert_eq!(report["good"], 0);
    assert_eq!(host.count(Counter::AbsentBlocked), 8000);
    let reported = host.engine().events(Duration::ZERO).unwrap().len() as u64;
    let dropped = host.count(Counter::EventsDropped);
    assert!(dropped > 0, "the ring was full");
    assert_eq!(
        reported + dropped,
        8000,
        "each event is reported, or counted as dropped"
    );
    assert_eq!(host.engine().events_lost().unwrap(), dropped);
    assert_eq!(host.engine().events_lost().unwrap(), 0);
    host.connect("10.1.2.3:80");
    host.await_event(EventKind::AbsentBlocked, "10.1.2.3:80"); // the ring has room again
}

#[test]
fn ended_processes_of_a_service_leave_room_for_others() {
    let mut host = Host::new("ended_processes");
    let service = host.service("inspect");
    // This listener stays open, so that the service is never without one.
    let listener = listen_shared(([0, 0, 0, 0], 0).into());
    assert_eq!(e2e::mark(&listener, &service), 0);
    let address = listener.local_addr().unwrap();
    for _ in 0..kernel::OWNERS_MAX + 10 {
        let mut proxy = host.proxy_at(&service, "listen-and-exit", address);
        assert_eq!(proxy.line(), "", "the proxy has ended");
    }
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
}

/// Copies the client program to this folder. Returns its path.
fn copy_client(folder: PathBuf) -> PathBuf {
    fs::create_dir_all(&folder).expect("the folder is made");
    let path = folder.join("client");
    fs::copy(e2e::client_binary(), &path).expect("the program is copied");
    path
}

#[test]
fn end_of_an_executables_path_that_exceeds_the_limits_is_reported() {
    let temporary = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(temporary.path()).unwrap();
    let mut host = Host::new("long_path");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    // A path that is short enough, one that is too long, one that is too deep, and one with a name
    // of the greatest length.
    for (folder, is_whole) in [
        (root.join("a/b"), true),
        (
            root.join("long".repeat(20) + "/" + &"path".repeat(50)),
            false,
        ),
        (root.join("d/".repeat(40)), false),
        (root.join("n".repeat(255)), false),
    ] {
        let path = copy_client(folder);
        let report = host
            .run(&[path.to_str().unwrap(), "connect", "10.1.2.3:80"])
            .json();
        assert_eq!(report["reply"], "10.1.2.3:80", "{}", path.display());
        let flow = proxy.flows().last().cloned().unwrap();
        let seen = flow.program().executable.to_str().unwrap().to_owned();
        let all = path.to_str().unwrap();
        assert!(
            all.ends_with(&seen) && seen.ends_with("client"),
            "{seen} of {all}"
        );
        assert_eq!(seen == all, is_whole, "{seen} of {all}");
    }
}
