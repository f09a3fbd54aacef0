//! Everything has a limit, and an answer at the limit (design 7.9 and 7.11).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Client, Host, Origin, Running, listen_by_hand, listen_shared, netns, wait};
use sidetrack_abi::kernel;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{
    Cgroup, Config, Engine, Error, Filter, RedirectContext, Service, ServiceSpec,
};

/// Room for eight flows, and a proxy that answers like an origin and holds on.
fn small(test: &str) -> (Host, Running) {
    small_with(test, Config::default().grace)
}

fn small_with(test: &str, grace: Duration) -> (Host, Running) {
    let config = Config {
        flows_max: 8,
        grace,
        ..Config::default()
    };
    let mut host = Host::with(test, config);
    let service = host.service("inspect");
    let proxy = host.serve(&service, |mut stream, _| {
        stream.write_all(b"originx")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    host.redirect_all(&[&service]);
    (host, proxy)
}

fn hold(host: &Host) -> Client {
    let mut client = host.client(&["connect", "10.1.2.3:80", "--send", "x", "--hold"]);
    assert_eq!(client.line()["ok"], true);
    client
}

#[test]
fn ninth_live_flow_of_eight_is_refused_and_reported() {
    let (mut host, _proxy) = small("flows_max");
    let mut held: Vec<_> = (0..8).map(|_| hold(&host)).collect();
    assert_eq!(host.flows(), 8);
    let told = host.connect_and_send("10.9.9.9:99", "x");
    assert_eq!(told["errno"], libc::ENOBUFS, "{told}");
    assert_eq!(host.count(Counter::FlowsFull), 1);
    host.await_event(EventKind::FlowsFull, "10.9.9.9:99");
    assert_eq!(host.flows(), 8, "no live one gave way");

    // One closes: its token's grace is cut short, for there is no other room.
    held.pop().expect("there are eight").wait();
    wait::until("there is room again", || {
        host.connect_and_send("10.1.2.3:80", "x")["ok"] == true
    });
    assert_eq!(host.count(Counter::GraceCut), 1);
    for client in held {
        assert_eq!(client.wait().code, Some(0), "the held ones lived on");
    }
}

#[test]
fn closed_flows_give_way_and_are_counted() {
    let (host, _proxy) = small("give_way");
    for _ in 0..50 {
        let told = host.connect_and_send("10.1.2.3:80", "x");
        assert_eq!(told["ok"], true, "{told}");
        wait::until("a flow is no more than eight", || host.flows() <= 8);
    }
    assert!(host.count(Counter::GraceCut) >= 40);
    assert_eq!(host.count(Counter::HandedOver), 50);
}

/// Eight slots, after many connects that were judged and then found no route.
fn failed_before_their_syn(test: &str, grace: Duration) -> (Host, Running) {
    netns::enter();
    let (host, proxy) = small_with(test, grace);
    netns::ip("route add unreachable 127.0.0.0/9 table local");
    for _ in 0..20 {
        let told = host.connect("10.1.2.3:80");
        assert_eq!(told["errno"], libc::EHOSTUNREACH, "{told}");
    }
    netns::ip("route del unreachable 127.0.0.0/9 table local");
    assert_eq!((host.flows(), host.count(Counter::FlowsFull)), (0, 0));
    (host, proxy)
}

#[test]
fn connects_that_fail_before_their_syn_keep_few_slots() {
    let (host, _proxy) = failed_before_their_syn("before_syn", Duration::from_secs(600));
    let _held: Vec<_> = (0..7).map(|_| hold(&host)).collect();
    let told = host.connect_and_send("10.9.9.9:99", "x");
    assert_eq!(
        told["errno"],
        libc::ENOBUFS,
        "one may wait for its SYN: {told}"
    );
    assert_eq!(host.count(Counter::FlowsLost), 0);
}

#[test]
fn slots_of_connects_that_fail_before_their_syn_are_used_again() {
    let grace = Duration::from_millis(50);
    let (host, _proxy) = failed_before_their_syn("after_syn", grace);
    let failed = Instant::now();
    wait::until("their time is over", || failed.elapsed() > grace);
    for _ in 0..8 {
        assert_eq!(host.connect_and_send("10.1.2.3:80", "x")["ok"], true); // each slot has its turn
    }
    wait::until("these have closed", || host.flows() == 0);
    let _held: Vec<_> = (0..8).map(|_| hold(&host)).collect();
    assert_eq!(host.flows(), 8);
    assert_eq!(host.count(Counter::FlowsLost), 0);
}

#[test]
fn client_is_told_its_peer_after_its_proxy_has_gone() {
    let config = Config {
        flows_max: 8,
        ..Config::default()
    };
    let mut host = Host::with("proxy_gone", config);
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    host.program.add(std::process::id()).expect("may be moved");
    let client = TcpStream::connect("10.1.2.3:80").expect("it is diverted");
    host.enter_service();
    drop(listener.accept().expect("it comes"));
    for _ in 0..20 {
        let other = host.client(&["connect", "10.9.9.9:99"]);
        drop(listener.accept().expect("it comes"));
        other.wait(); // its slot is another's soon
    }
    let peer = client.peer_addr().expect("it is not closed");
    assert_eq!(peer.to_string(), "10.1.2.3:80");
    wait::until("the others have ended", || host.flows() == 1);
    drop(client);
    wait::until("it has ended too", || host.flows() == 0);
}

#[test]
fn socket_that_no_filter_touches_makes_no_flow() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("untouched");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy(&[Filter {
        remote: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::redirect_all(service.number)
    }]);
    let to = origin.address.to_string();
    let told = host.connect_and_send(&to, "x");
    assert_eq!(
        (&told["reply"], &told["peer"]),
        (&"originx".into(), &to.into())
    );
    let counters = host.engine().counters().unwrap();
    assert_eq!(counters.flows, 0);
    assert!(counters.iter().all(|(_, count)| count == 0), "{counters:?}");
}

fn start(scope: &Cgroup) -> Result<Engine, Error> {
    Engine::open(scope, Config::default())?.load()?.attach()
}

#[test]
fn second_engine_is_refused_at_above_and_below() {
    let mut host = Host::bare("second_engine");
    let middle = host.program.make("middle").unwrap();
    let below = middle.make("below").unwrap();
    host.engine = Some(start(&middle).expect("the first may attach"));
    for cgroup in [&middle, &below, &host.program] {
        let refused = start(cgroup).map(drop);
        assert!(
            matches!(refused, Err(Error::AlreadyAttached(_))),
            "{refused:?}"
        );
    }
    // A service's home at another engine's place is the same.
    let mut other = start(&host.service).expect("a sibling is no conflict");
    let refused = other.add_service(&ServiceSpec::new("x"), &middle).map(drop);
    assert!(
        matches!(refused, Err(Error::AlreadyAttached(_))),
        "{refused:?}"
    );
    drop(host.engine.take());
    start(&middle).expect("the first is gone");
}

#[test]
fn service_255_works_and_the_next_is_refused() {
    let mut host = Host::new("services");
    let services: Vec<_> = (1..=255)
        .map(|number| host.service(&number.to_string()))
        .collect();
    let home = host.service.path().to_owned();
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

/// Filters that match nothing a test connects to.
fn idle(service: &Service, count: usize) -> Vec<Filter> {
    let filter = Filter {
        ports: Some((1, 1)),
        ..Filter::redirect_all(service.number)
    };
    vec![filter; count]
}

#[test]
fn filter_50000_works_and_a_policy_of_50001_changes_nothing() {
    let mut host = Host::new("filters");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    let mut filters = idle(&service, 49_999);
    filters.push(Filter::redirect_all(service.number));
    host.set_policy(&filters);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    let refused = host.engine().set_policy(&idle(&service, 50_001));
    assert!(
        matches!(refused, Err(Error::TooManyFilters(50_001))),
        "{refused:?}"
    );
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
}

#[test]
fn context_257_is_refused_and_changes_nothing() {
    let mut host = Host::new("contexts");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    let with = |number: u32| Filter {
        context: RedirectContext::Fixed(number.to_be_bytes().to_vec()),
        ..Filter::redirect_all(service.number)
    };
    let mut filters: Vec<_> = (0..256).map(with).collect();
    filters.reverse();
    host.set_policy(&filters);
    let refused = host.engine().set_policy(&[with(256)]);
    assert!(
        matches!(refused, Err(Error::TooManyContexts)),
        "{refused:?}"
    );
    host.connect("10.1.2.3:80");
    assert_eq!(proxy.flows()[0].context(), Some(&255_u32.to_be_bytes()[..]));
    host.set_policy(&[with(7)]); // known ones go on working
    host.connect("10.1.2.3:80");
    assert_eq!(proxy.flows()[1].context(), Some(&7_u32.to_be_bytes()[..]));
}

#[test]
fn contexts_that_nobody_has_any_more_make_room_for_others() {
    let mut host = Host::new("contexts_reused");
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    let with = |number: u32| Filter {
        context: RedirectContext::Fixed(number.to_be_bytes().to_vec()),
        ..Filter::redirect_all(service.number)
    };
    let accept = |host: &Host| {
        let client = host.client(&["connect", "10.1.2.3:80"]);
        (listener.accept().expect("the client comes").0, client)
    };
    let context = |(stream, _): &(TcpStream, _)| {
        let flow = sidetrack::query(stream).expect("it is redirected");
        flow.context().map(<[u8]>::to_vec)
    };
    host.set_policy(&[with(0)]);
    let open = accept(&host);
    for number in 1..600 {
        host.set_policy(&[with(number)]);
    }
    let too_many: Vec<_> = (2_000..2_257).map(with).collect();
    let refused = host.engine().set_policy(&too_many);
    assert!(matches!(refused, Err(Error::TooManyContexts)));
    host.set_policy(&[with(3_000)]); // what was refused has left nothing
    assert_eq!(
        context(&accept(&host)),
        Some(3_000_u32.to_be_bytes().to_vec())
    );
    assert_eq!(
        context(&open),
        Some(vec![0; 4]),
        "it is an open connection's"
    );
}

#[test]
fn events_over_the_rings_size_are_dropped_and_counted() {
    let mut host = Host::new("events");
    let service = host.service("absent");
    host.redirect_all(&[&service]);
    let told = host
        .client(&["storm", "--threads", "4", "--count", "2000"])
        .json();
    assert_eq!(told["good"], 0);
    assert_eq!(host.count(Counter::AbsentBlocked), 8000);
    let told = host.engine().events(Duration::ZERO).unwrap().len() as u64;
    let dropped = host.count(Counter::EventsDropped);
    assert!(dropped > 0, "the ring was full");
    assert_eq!(told + dropped, 8000, "each is told or counted");
    host.connect("10.1.2.3:80");
    host.await_event(EventKind::AbsentBlocked, "10.1.2.3:80"); // it works again
}

#[test]
fn processes_that_come_and_go_leave_room_for_others() {
    let mut host = Host::new("come_and_go");
    let service = host.service("inspect");
    // One stays all the while: the service is never without a listener.
    let staying = listen_shared(([0, 0, 0, 0], 0).into());
    assert_eq!(e2e::mark(&staying, &service), 0);
    let at = staying.local_addr().unwrap();
    for _ in 0..kernel::OWNERS_MAX + 10 {
        let mut one = host.proxy_at(&service, "come-and-go", at);
        assert_eq!(one.line(), "", "it has ended");
    }
    assert_eq!(host.engine().listeners(&service).unwrap(), (1, 0));
}

/// The client program at a path of our choice.
fn client_at(folder: PathBuf) -> PathBuf {
    fs::create_dir_all(&folder).expect("may be made");
    let path = folder.join("client");
    fs::copy(e2e::client_binary(), &path).expect("may be copied");
    path
}

#[test]
fn executables_path_over_its_limits_is_told_by_its_tail() {
    let temporary = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(temporary.path()).unwrap();
    let mut host = Host::new("long_path");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    // Short enough; too long; too deep; one name that is as long as names may be.
    for (folder, whole) in [
        (root.join("a/b"), true),
        (
            root.join("long".repeat(20) + "/" + &"path".repeat(50)),
            false,
        ),
        (root.join("d/".repeat(40)), false),
        (root.join("n".repeat(255)), false),
    ] {
        let path = client_at(folder);
        let told = host
            .run(&[path.to_str().unwrap(), "connect", "10.1.2.3:80"])
            .json();
        assert_eq!(told["reply"], "10.1.2.3:80", "{}", path.display());
        let flow = proxy.flows().last().cloned().unwrap();
        let seen = flow.program().executable.to_str().unwrap().to_owned();
        let all = path.to_str().unwrap();
        assert!(
            all.ends_with(&seen) && seen.ends_with("client"),
            "{seen} of {all}"
        );
        assert_eq!(seen == all, whole, "{seen} of {all}");
    }
}
