//! The odd-numbered cases of the specification's 8.5, redirect states and chains: each by what it
//! means here, where the kernel side keeps the records and no driver's callout runs.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use e2e::policy::{both, flags_of, port, put, redirect, straight, sublayer};
use e2e::sys::get_option;
use e2e::{Host, Origin, client_binary, listen_by_hand, wait};
use sidetrack::{Flow, State};
use sidetrack_abi::kernel::{CONTEXT, INFO, RECORDS, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{Error, Filter as Entry};
use sidetrack_policy::field::flags;
use sidetrack_policy::{
    Action, Code, Condition, Field, Filter, LayerKind, MatchType, RedirectContext, Value,
};
use socket2::{Domain, Socket, Type};

const FAR: &str = "10.1.2.3:80";

fn chain(flow: &Flow) -> Vec<&str> {
    flow.chain().collect()
}

/// State 0 is that there is nothing to tell: the options answer ENODATA.
#[test]
fn case_61_fresh_connection_has_no_state_and_no_context() {
    let mut host = Host::new("case61");
    host.service("inspect"); // where proxies can be, there are options
    let (stream, _client) = straight(&host);
    for option in [INFO, CONTEXT] {
        let answer = get_option(&stream, SOL_SIDETRACK, option, 4096);
        assert_eq!(answer.errno, libc::ENODATA);
    }
    let asked = sidetrack::query(&stream);
    assert!(matches!(asked, Err(sidetrack::Error::NotRedirected)));
}

/// WFP loops here. The kernel knows a proxy's sockets by its process, and refuses.
#[test]
fn case_63_proxy_that_sets_no_records_is_refused_and_does_not_loop() {
    let mut host = Host::new("case63");
    let service = host.service("inspect");
    let _proxy = host.proxy(&service, "forget");
    host.redirect_all(&[&service]);
    assert_eq!(host.connect(FAR)["reply"], "");
    host.await_event(EventKind::RecordsMissing, FAR);
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(host.count(Counter::RecordsMissing), 1);
}

/// The asking service is the last of the chain: its filter is passed over.
#[test]
fn case_65_service_that_redirected_last_is_by_self() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case65");
    let (h, g) = (host.service("h"), host.service("g"));
    let (_, q) = (host.relay(&h), host.relay(&g));
    host.redirect_all(&[&h, &g]);
    let told = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(told["reply"], "originx", "{told}");
    let flows = q.flows();
    assert_eq!(flows.len(), 1, "G did not redirect again");
    assert_eq!(chain(&flows[0]), ["h", "g"]);
    assert_eq!(flows[0].state(), State::RedirectedBySelf);
}

/// H is in the chain, and G came after it. No filter of H's redirects any more; one at auth connect
/// may still block.
#[test]
fn case_67_previously_redirected_by_self_may_only_permit_or_block() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case67");
    let (h, g) = (host.service("h"), host.service("g"));
    let proxies = [host.relay(&h), host.relay(&g)];
    let (to_h, to_g) = (redirect(&mut host, &h), redirect(&mut host, &g));
    let mut filters = Vec::new();
    for (id, action) in [(3, to_h), (2, to_g), (1, to_h)] {
        filters.extend(both(LayerKind::ConnectRedirect, id, action, &[]));
    }
    put(&mut host, &filters, &[]);
    assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
    let at_last = [flags_of(MatchType::FlagsNoneSet, flags::REDIRECTED)];
    filters.extend(both(LayerKind::AuthConnect, 9, Action::Block, &at_last));
    put(&mut host, &filters, &[]);
    assert_eq!(host.connect(&to)["reply"], "");
    assert_eq!(host.count(Counter::Blocked), 1);
    assert_eq!(host.count(Counter::Redirected), 4, "H twice, and G twice");
    assert!(proxies.iter().all(|proxy| proxy.flows().len() == 2));
    assert_eq!(origin.accepted(), 1);
}

/// A service is one handle for both families. Of two, each sees the connection.
#[test]
fn case_69_service_of_both_families_knows_itself_when_the_proxy_changes_the_family() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case69");
    let services = ["six", "four"].map(|name| host.service(name));
    let [six, four] = services.each_ref().map(|service| {
        let to = origin.address;
        host.serve(service, move |stream, flow| {
            e2e::both_ways(stream, flow.connect_to(to).map_err(io::Error::other)?)
        })
    });
    host.redirect_all(&[&services[0]]);
    let told = host.connect_and_send("[fd00::1]:80", "x");
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!((six.flows().len(), four.flows().len()), (1, 0));
    let of = |service: usize, prefix: &str| Entry {
        remote: Some(prefix.parse().expect("a prefix")),
        ..Entry::redirect_all(services[service].number)
    };
    host.set_policy(&[of(0, "::/0"), of(1, "0.0.0.0/0")]);
    let told = host.connect_and_send("[fd00::1]:80", "x");
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!(chain(&four.flows()[0]), ["six", "four"]);
}

/// The blob in the format that SET takes is the option RECORDS: NOT_FOUND is ENODATA.
#[test]
fn case_71_without_records_there_are_none_to_give() {
    let mut host = Host::new("case71");
    host.service("inspect");
    let (stream, _client) = straight(&host);
    let answer = get_option(&stream, SOL_SIDETRACK, RECORDS, 4096);
    assert_eq!(answer.errno, libc::ENODATA);
}

/// previousVersion is the flow before: the first of a chain has none, and is its own origin.
#[test]
fn case_73_first_flow_of_a_chain_has_none_before_it() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case73");
    let (h, g) = (host.service("h"), host.service("g"));
    let proxies = [host.relay(&h), host.relay(&g)];
    host.redirect_all(&[&h, &g]);
    host.connect_and_send(&origin.address.to_string(), "x");
    let [first, second] = proxies.map(|proxy| proxy.flows()[0].clone());
    assert_eq!(chain(&first), ["h"]);
    assert_eq!(first.origin_id(), first.id());
    assert_eq!(second.origin_id(), first.id());
    assert_ne!(second.id(), first.id());
}

/// The right to write is taken by a higher sublayer's hard permit. Then a redirect changes nothing,
/// and a veto still blocks.
#[test]
fn case_75_without_the_right_to_write_nothing_is_redirected_but_a_veto_blocks() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case75");
    let service = host.service("inspect");
    let proxy = host.relay(&service);
    let sublayers = [sublayer(1, 20), sublayer(2, 10)];
    let layer = LayerKind::ConnectRedirect;
    let redirect = redirect(&mut host, &service);
    for (action, errno) in [(redirect, None), (Action::Veto, Some(libc::EACCES))] {
        let permits = both(layer, 1, Action::Permit, &[]).map(|filter| Filter {
            clear_action_right: true,
            sublayer: sublayers[0].identity.key,
            ..filter
        });
        let lower = both(layer, 2, action, &[]).map(|filter| Filter {
            sublayer: sublayers[1].identity.key,
            ..filter
        });
        put(&mut host, &[permits, lower].concat(), &sublayers);
        let told = host.connect_and_send(&to, "x");
        assert_eq!(told["errno"].as_i64(), errno.map(i64::from), "{told}");
    }
    assert_eq!(origin.accepted(), 1, "the redirect did nothing");
    assert!(proxy.flows().is_empty());
    assert_eq!(host.count(Counter::Vetoed), 1);
}

/// WFP wants the local proxy's process named. Here a listener names it, and to none is no redirect.
#[test]
fn case_77_redirect_to_no_process_is_refused() {
    let mut host = Host::new("case77");
    let service = host.service("inspect");
    let unknown = host
        .engine()
        .set_policy(&[Entry::redirect_all(service.number + 1)]);
    assert!(matches!(unknown, Err(Error::UnknownService { .. })));
    host.redirect_all(&[&service]);
    let told = host.connect(FAR);
    assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
    host.await_event(EventKind::AbsentBlocked, FAR);
}

/// The kernel side has a copy: whatever becomes of the filter, a flow's context is the one it got.
#[test]
fn case_79_context_stays_a_flows_own_when_its_filter_goes() {
    let mut host = Host::new("case79");
    let service = host.service("inspect");
    let listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    let mut flows = Vec::new();
    let contexts = ["first", "second", "third"];
    for text in contexts {
        host.set_policy(&[Entry {
            context: RedirectContext::Fixed(text.into()),
            ..Entry::redirect_all(service.number)
        }]);
        let client = host.client(&["connect", FAR]);
        flows.push((listener.accept().expect("the client comes").0, client));
    }
    host.set_policy(&[]);
    for (text, (stream, _)) in contexts.into_iter().zip(&flows) {
        let flow = sidetrack::query(stream).expect("it is redirected");
        assert_eq!(flow.context(), Some(text.as_bytes()));
    }
}

#[test]
fn case_81_target_is_the_loopback_of_the_connections_family() {
    let mut host = Host::new("case81");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in [FAR, "[fd00::1]:80"] {
        assert_eq!(host.connect(to)["reply"], to);
    }
    for flow in proxy.flows() {
        let target = flow.own_address();
        assert!(target.ip().is_loopback(), "{target}");
        assert_eq!(target.is_ipv4(), flow.original_destination().is_ipv4());
    }
}

/// A connection keeps its family: a service that only listens in the other one is absent, and a
/// filter cannot name an address of it.
#[test]
fn case_83_family_cannot_be_switched() {
    let mut host = Host::new("case83");
    let service = host.service("inspect");
    let _listener = listen_by_hand(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    let told = host.connect("[fd00::1]:80");
    assert_eq!(told["errno"], libc::ECONNREFUSED, "{told}");
    let address = Value::Address("10.1.2.3".parse().expect("an address"));
    let conditions = [Condition::equal(Field::RemoteAddress, address)];
    let [_, v6] = both(LayerKind::ConnectRedirect, 1, Action::Block, &conditions);
    let refused = v6.check().expect_err("it is of the other family");
    assert_eq!(refused.code, Code::TypeMismatch);
}

/// The event of an inspecting filter tells whose it is, and where it was meant to go; who has it now, the
/// flow tells.
#[test]
fn case_85_auth_connect_sees_that_it_was_redirected_and_its_first_destination() {
    let mut host = Host::new("case85");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    let redirected = [flags_of(MatchType::FlagsAllSet, flags::REDIRECTED)];
    let straight = [flags_of(MatchType::FlagsNoneSet, flags::REDIRECTED)];
    let action = redirect(&mut host, &service);
    let filters = [
        both(LayerKind::ConnectRedirect, 1, action, &[port(80)]),
        both(LayerKind::AuthConnect, 2, Action::Inspect, &redirected),
        both(LayerKind::AuthConnect, 3, Action::Inspect, &straight),
    ];
    put(&mut host, &filters.concat(), &[]);
    host.connect("127.0.0.1:1");
    assert_eq!(host.connect(FAR)["reply"], FAR);
    let went_straight = host.await_event(EventKind::Inspected, "127.0.0.1:1");
    assert_eq!(went_straight.filter_id, 3);
    let event = host.await_event(EventKind::Inspected, FAR);
    assert_eq!(event.filter_id, 2);
    let flow = proxy.flows()[0].clone();
    assert_eq!(event.pid, flow.program().pid);
    assert!(
        proxy
            .addresses
            .iter()
            .any(|at| at.port() == flow.own_address().port())
    );
}

/// `app` is the first program's through the whole chain, `current_app` the one that connects now.
#[test]
fn case_87_original_app_is_the_first_of_the_chain() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case87");
    let (h, g) = (host.service("h"), host.service("g"));
    let (_, last) = (host.relay(&h), host.relay(&g));
    let client = client_binary().display().to_string();
    let proxies = std::env::current_exe().expect("it has a path");
    let proxies = proxies.display().to_string();
    let mut filters = Vec::new();
    for (id, service) in [(2, &h), (1, &g)] {
        let action = redirect(&mut host, service);
        filters.extend(both(LayerKind::ConnectRedirect, id, action, &[]));
    }
    for (id, field, path) in [
        (11, Field::App, client.clone()),
        (12, Field::CurrentApp, client),
        (13, Field::CurrentApp, proxies),
    ] {
        let app = [Condition::equal(field, Value::Path(path))];
        filters.extend(both(LayerKind::AuthConnect, id, Action::Inspect, &app));
    }
    put(&mut host, &filters, &[]);
    host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(last.flows()[0].program().executable, client_binary());
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    let expected = BTreeMap::from([(11, 3), (12, 1), (13, 2)]);
    wait::until("all three connects are told", || {
        let events = host.engine().events(Duration::from_millis(1));
        for event in events.expect("readable") {
            *times.entry(event.filter_id).or_default() += 1;
        }
        times == expected
    });
}

/// Nothing pends here. A connect that was refused may be tried again on the same socket, and is
/// judged anew by the policy in force then.
#[test]
fn case_89_connect_tried_again_is_judged_anew() {
    let mut host = Host::new("case89");
    let service = host.service("inspect");
    let _proxy = host.proxy(&service, "answer");
    let blocks = both(LayerKind::ConnectRedirect, 1, Action::Block, &[]);
    put(&mut host, &blocks, &[]);
    host.program.add(std::process::id()).expect("may move");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let to = FAR
        .parse::<std::net::SocketAddr>()
        .expect("an address")
        .into();
    let refused = socket.connect(&to).expect_err("it is blocked");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    host.redirect_all(&[&service]);
    socket.connect(&to).expect("it is redirected");
    let answer = io::read_to_string(TcpStream::from(socket));
    assert_eq!(answer.expect("it answers"), FAR);
}
