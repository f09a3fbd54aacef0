//! The conformance cases of docs/wfp.md, 8.5 (redirect states and chains). Each is tested by what
//! it means here: the kernel side keeps the records, and no driver's callout runs.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use e2e::policy::{both_families, flags_of, port, prefix, redirect_tcp, sublayer};
use e2e::sys::get_option;
use e2e::{Host, Origin, client_binary, listen_marked, wait};
use sidetrack::{Flow, State};
use sidetrack_abi::kernel::{CONTEXT, INFO, RECORDS, SOL_SIDETRACK};
use sidetrack_engine::Error;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::field::flags;
use sidetrack_policy::redirect::{Redirect, in_order};
use sidetrack_policy::{
    Action, Code, Condition, Field, Filter, LayerKind, MatchType, RedirectContext, Uuid, Value,
};
use socket2::{Domain, Socket, Type};

const REMOTE: &str = "10.1.2.3:80";

fn chain(flow: &Flow) -> Vec<&str> {
    flow.chain().collect()
}

/// Windows' state 0, "not redirected", is ENODATA of the options here.
#[test]
fn case_61_fresh_connection_has_no_state_and_no_context() {
    let mut host = Host::new("case61");
    host.service("inspect"); // the options exist only in cgroups of services
    let (stream, _client) = host.direct_connection();
    for option in [INFO, CONTEXT] {
        let answer = get_option(&stream, SOL_SIDETRACK, option, 4096);
        assert_eq!(answer.errno, libc::ENODATA);
    }
    let answer = sidetrack::query(&stream);
    assert!(matches!(answer, Err(sidetrack::Error::NotRedirected)));
}

/// Windows loops in this case. Here the kernel recognises a proxy's sockets by the process, and
/// refuses the connect.
#[test]
fn case_63_proxy_that_sets_no_records_is_refused_and_does_not_loop() {
    let mut host = Host::new("case63");
    let service = host.service("inspect");
    let _proxy = host.proxy(&service, "without-records");
    host.redirect_all(&[&service]);
    assert_eq!(host.connect(REMOTE)["reply"], "");
    host.await_event(EventKind::RecordsMissing, REMOTE);
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(host.count(Counter::RecordsMissing), 1);
}

/// The service that queries the state is the last one of the chain, so its filter does not act again.
#[test]
fn case_65_last_service_of_the_chain_sees_redirected_by_self() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case65");
    let (h, g) = (host.service("h"), host.service("g"));
    let (_, q) = (host.relay(&h), host.relay(&g));
    host.redirect_all(&[&h, &g]);
    let report = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(report["reply"], "originx", "{report}");
    let flows = q.flows();
    assert_eq!(flows.len(), 1, "G did not redirect again");
    assert_eq!(chain(&flows[0]), ["h", "g"]);
    assert_eq!(flows[0].state(), State::RedirectedBySelf);
}

/// H is in the chain, and G came after it. H's filters do not redirect again, but a filter at auth
/// connect may still block.
#[test]
fn case_67_connection_previously_redirected_by_self_may_only_be_permitted_or_blocked() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case67");
    let (h, g) = (host.service("h"), host.service("g"));
    let proxies = [host.relay(&h), host.relay(&g)];
    let (to_h, to_g) = (Action::Redirect(h.key), Action::Redirect(g.key));
    let mut filters = Vec::new();
    for (id, action) in [(3, to_h), (2, to_g), (1, to_h)] {
        filters.extend(both_families(LayerKind::ConnectRedirect, id, action, &[]));
    }
    host.commit(&filters, &[]);
    assert_eq!(host.connect_and_send(&to, "x")["reply"], "originx");
    let not_redirected = [flags_of(MatchType::FlagsNoneSet, flags::REDIRECTED)];
    filters.extend(both_families(
        LayerKind::AuthConnect,
        9,
        Action::Block,
        &not_redirected,
    ));
    host.commit(&filters, &[]);
    assert_eq!(host.connect(&to)["reply"], "");
    assert_eq!(host.count(Counter::Blocked), 1);
    assert_eq!(host.count(Counter::Redirected), 4, "H twice, and G twice");
    assert!(proxies.iter().all(|proxy| proxy.flows().len() == 2));
    assert_eq!(origin.accepted(), 1);
}

/// A service is one handle for both families, so it is not redirected to itself. With a service for
/// each family, each sees the connection.
#[test]
fn case_69_proxy_that_changes_the_family_is_not_redirected_to_itself() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case69");
    let services = ["six", "four"].map(|name| host.service(name));
    let [six, four] = services.each_ref().map(|service| {
        let to = origin.address;
        host.serve(service, move |stream, flow| {
            e2e::copy_both_ways(stream, flow.connect_to(to).map_err(io::Error::other)?)
        })
    });
    host.redirect_all(&[&services[0]]);
    let report = host.connect_and_send("[fd00::1]:80", "x");
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!((six.flows().len(), four.flows().len()), (1, 0));
    host.set_policy([
        redirect_tcp(&services[0]).remote(prefix("::/0")),
        redirect_tcp(&services[1]).remote(prefix("0.0.0.0/0")),
    ]);
    let report = host.connect_and_send("[fd00::1]:80", "x");
    assert_eq!(report["reply"], "originx", "{report}");
    assert_eq!(chain(&four.flows()[0]), ["six", "four"]);
}

/// Windows' records in the format of SET are the option RECORDS here. Its NOT_FOUND is ENODATA.
#[test]
fn case_71_direct_connection_has_no_records() {
    let mut host = Host::new("case71");
    host.service("inspect");
    let (stream, _client) = host.direct_connection();
    let answer = get_option(&stream, SOL_SIDETRACK, RECORDS, 4096);
    assert_eq!(answer.errno, libc::ENODATA);
}

/// Windows' previousVersion is the parent flow here. The first flow of a chain has none, and is its own
/// origin.
#[test]
fn case_73_first_flow_of_a_chain_has_no_parent_flow() {
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

/// A hard permit of a higher sublayer takes away the right to write. A redirect then has no effect,
/// but a veto still blocks.
#[test]
fn case_75_hard_permit_prevents_a_redirect_but_not_a_veto() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case75");
    let service = host.service("inspect");
    let proxy = host.relay(&service);
    let sublayers = [sublayer(1, 20), sublayer(2, 10)];
    let layer = LayerKind::ConnectRedirect;
    let redirect = Action::Redirect(service.key);
    for (action, errno) in [(redirect, None), (Action::Veto, Some(libc::EACCES))] {
        let permits = both_families(layer, 1, Action::Permit, &[]).map(|filter| Filter {
            clear_action_right: true,
            sublayer: sublayers[0].identity.key,
            ..filter
        });
        let lower = both_families(layer, 2, action, &[]).map(|filter| Filter {
            sublayer: sublayers[1].identity.key,
            ..filter
        });
        host.commit(&[permits, lower].concat(), &sublayers);
        let report = host.connect_and_send(&to, "x");
        assert_eq!(report["errno"].as_i64(), errno.map(i64::from), "{report}");
    }
    assert_eq!(origin.accepted(), 1, "the redirect had no effect");
    assert!(proxy.flows().is_empty());
    assert_eq!(host.count(Counter::Vetoed), 1);
}

/// On Windows a redirect must name the proxy's process. Here a listener takes the place of the
/// name, and without one there is no redirect.
#[test]
fn case_77_redirect_to_an_unknown_or_absent_service_is_refused() {
    let mut host = Host::new("case77");
    let service = host.service("inspect");
    let unknown = in_order([Redirect::tcp(Uuid::from_u128(1))]);
    let refused = host.engine().commit(&unknown, &[]);
    assert!(
        matches!(&refused, Err(Error::Policy(error)) if error.code == Code::CalloutNotFound),
        "{refused:?}"
    );
    host.redirect_all(&[&service]);
    let report = host.connect(REMOTE);
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    host.await_event(EventKind::AbsentBlocked, REMOTE);
}

/// The kernel side keeps the context for the flow, so it does not change when the filter is replaced or
/// removed.
#[test]
fn case_79_flow_keeps_its_context_when_its_filter_is_removed() {
    let mut host = Host::new("case79");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    let mut flows = Vec::new();
    let contexts = ["first", "second", "third"];
    for text in contexts {
        host.set_policy([redirect_tcp(&service).context(RedirectContext::Fixed(text.into()))]);
        let client = host.client(&["connect", REMOTE]);
        flows.push((listener.accept().expect("the client connects").0, client));
    }
    host.set_policy([]);
    for (text, (stream, _)) in contexts.into_iter().zip(&flows) {
        let flow = sidetrack::query(stream).expect("the connection was redirected");
        assert_eq!(flow.context(), Some(text.as_bytes()));
    }
}

#[test]
fn case_81_target_is_a_loopback_address_of_the_connections_family() {
    let mut host = Host::new("case81");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    host.redirect_all(&[&service]);
    for to in [REMOTE, "[fd00::1]:80"] {
        assert_eq!(host.connect(to)["reply"], to);
    }
    for flow in proxy.flows() {
        let target = flow.own_address();
        assert!(target.ip().is_loopback(), "{target}");
        assert_eq!(target.is_ipv4(), flow.original_destination().is_ipv4());
    }
}

/// A service that listens only with the other family is absent, and a filter cannot name an address of
/// the other family.
#[test]
fn case_83_redirect_cannot_change_the_address_family() {
    let mut host = Host::new("case83");
    let service = host.service("inspect");
    let _listener = listen_marked(&service, "0.0.0.0:0", 16);
    host.redirect_all(&[&service]);
    let report = host.connect("[fd00::1]:80");
    assert_eq!(report["errno"], libc::ECONNREFUSED, "{report}");
    let address = Value::Address("10.1.2.3".parse().expect("an IP address"));
    let conditions = [Condition::equal(Field::RemoteAddress, address)];
    let [_, v6] = both_families(LayerKind::ConnectRedirect, 1, Action::Block, &conditions);
    let refused = v6.check().expect_err("the address is of the other family");
    assert_eq!(refused.error.code, Code::TypeMismatch);
}

/// The event of an inspect filter has the program and the original destination. The flow has the
/// service that got the connection.
#[test]
fn case_85_auth_connect_sees_the_redirected_flag_and_the_original_destination() {
    let mut host = Host::new("case85");
    let service = host.service("inspect");
    let proxy = host.answer(&service);
    let redirected = [flags_of(MatchType::FlagsAllSet, flags::REDIRECTED)];
    let not_redirected = [flags_of(MatchType::FlagsNoneSet, flags::REDIRECTED)];
    let action = Action::Redirect(service.key);
    let filters = [
        both_families(LayerKind::ConnectRedirect, 1, action, &[port(80)]),
        both_families(LayerKind::AuthConnect, 2, Action::Inspect, &redirected),
        both_families(LayerKind::AuthConnect, 3, Action::Inspect, &not_redirected),
    ];
    host.commit(&filters.concat(), &[]);
    host.connect("127.0.0.1:1");
    assert_eq!(host.connect(REMOTE)["reply"], REMOTE);
    let direct = host.await_event(EventKind::Inspected, "127.0.0.1:1");
    assert_eq!(direct.filter_id, 3);
    let event = host.await_event(EventKind::Inspected, REMOTE);
    assert_eq!(event.filter_id, 2);
    let flow = proxy.flows()[0].clone();
    assert_eq!(event.pid, flow.program().pid);
    assert!(
        proxy
            .addresses
            .iter()
            .any(|address| address.port() == flow.own_address().port())
    );
}

/// Through the whole chain, the field `app` is the original program, and `current_app` is the
/// program that connects.
#[test]
fn case_87_app_is_the_original_program_of_the_chain() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case87");
    let (h, g) = (host.service("h"), host.service("g"));
    let (_, last) = (host.relay(&h), host.relay(&g));
    let client = client_binary().display().to_string();
    let proxy = std::env::current_exe().expect("the test's executable has a path");
    let proxy = proxy.display().to_string();
    let mut filters = Vec::new();
    for (id, service) in [(2, &h), (1, &g)] {
        let action = Action::Redirect(service.key);
        filters.extend(both_families(LayerKind::ConnectRedirect, id, action, &[]));
    }
    for (id, field, path) in [
        (11, Field::App, client.clone()),
        (12, Field::CurrentApp, client),
        (13, Field::CurrentApp, proxy),
    ] {
        let app = [Condition::equal(field, Value::Path(path))];
        filters.extend(both_families(
            LayerKind::AuthConnect,
            id,
            Action::Inspect,
            &app,
        ));
    }
    host.commit(&filters, &[]);
    host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(last.flows()[0].program().executable, client_binary());
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    let expected = BTreeMap::from([(11, 3), (12, 1), (13, 2)]);
    wait::until("all three connects are reported", || {
        let events = host.engine().events(Duration::from_millis(1));
        for event in events.expect("events are readable") {
            *times.entry(event.filter_id).or_default() += 1;
        }
        times == expected
    });
}

/// Here no classification is pended. A connect that was refused may be repeated on the same socket,
/// and is then classified by the policy in force.
#[test]
fn case_89_repeated_connect_is_classified_again() {
    let mut host = Host::new("case89");
    let service = host.service("inspect");
    let _proxy = host.proxy(&service, "answer");
    let blocks = both_families(LayerKind::ConnectRedirect, 1, Action::Block, &[]);
    host.commit(&blocks, &[]);
    host.program_cgroup
        .add(std::process::id())
        .expect("the process is moved");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let to = REMOTE
        .parse::<std::net::SocketAddr>()
        .expect("an address and a port")
        .into();
    let refused = socket.connect(&to).expect_err("the connect is blocked");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    host.redirect_all(&[&service]);
    socket.connect(&to).expect("the connect is redirected");
    let answer = io::read_to_string(TcpStream::from(socket));
    assert_eq!(answer.expect("the proxy answers"), REMOTE);
}
