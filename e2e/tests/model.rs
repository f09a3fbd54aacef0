//! The conformance cases of docs/wfp.md, 8.9 (management model), that are about the kernel. Case
//! 139 is in layers.rs. The cases 131, 135, 143, 145, 147 and 149 are about the daemon, and are
//! tested in its crate.

use e2e::policy::{both_families, port};
use e2e::{Host, Origin, netns};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::{Absent, Action, Condition, Field, Filter, LayerKind, Value};

const BLOCKED: i32 = libc::EACCES;
/// No filter has blocked the connect, and there is no listener at the destination.
const PASSED: i32 = libc::ECONNREFUSED;

/// The error number of a connect; 0 if it succeeded.
fn errno(host: &Host, to: &str) -> i32 {
    let report = host.connect(to);
    report["errno"].as_i64().map_or(0, |errno| errno as i32)
}

#[test]
fn case_133_conditions_on_one_field_are_alternatives_and_every_field_must_match() {
    netns::enter();
    let mut host = Host::new("case133");
    let protocol = |number| Condition::equal(Field::Protocol, Value::Uint(number));
    for (number, at_80_and_443) in [(6, BLOCKED), (17, PASSED)] {
        let conditions = [port(80), port(443), protocol(number)];
        let filters = both_families(LayerKind::AuthConnect, 1, Action::Block, &conditions);
        host.commit(&filters, &[]);
        for (to, expected) in [
            ("127.0.0.1:80", at_80_and_443),
            ("[::1]:443", at_80_and_443),
            ("127.0.0.1:81", PASSED),
        ] {
            assert_eq!(errno(&host, to), expected, "{to}, protocol {number}");
        }
    }
}

#[test]
fn case_137_filter_of_the_higher_weight_decides() {
    netns::enter();
    let mut host = Host::new("case137");
    for (high, low, expected) in [
        (Action::Permit, Action::Block, PASSED),
        (Action::Block, Action::Permit, BLOCKED),
    ] {
        let filters = [(20, high), (10, low)];
        let filters = filters
            .map(|(weight, action)| both_families(LayerKind::AuthConnect, weight, action, &[]));
        host.commit(&filters.concat(), &[]);
        assert_eq!(errno(&host, "127.0.0.1:80"), expected);
    }
    let event = host.await_event(EventKind::Blocked, "127.0.0.1:80");
    assert_eq!(event.filter_id, 20);
    assert_eq!(host.count(Counter::Blocked), 1);
}

/// Windows' callout that is not registered is an absent service here.
#[test]
fn case_141_absent_service_blocks_unless_its_filter_permits() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case141");
    let service = host.service("inspect");
    let action = Action::Redirect(service.key);
    let mut absent = |on_absent| {
        let filters = both_families(LayerKind::ConnectRedirect, 1, action, &[]);
        let filters = filters.map(|filter| Filter {
            on_absent: Some(on_absent),
            ..filter
        });
        host.commit(&filters, &[]);
        host.connect_and_send(&to, "x")
    };
    let refused = absent(Absent::Block);
    assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    assert_eq!(absent(Absent::Permit)["reply"], "originx");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::AbsentBlocked), 1);
    assert_eq!(host.count(Counter::AbsentPermitted), 1);
}

/// The permit is its sublayer's verdict, so a redirect filter of lower weight in the same sublayer
/// is not evaluated.
#[test]
fn case_151_permit_at_connect_redirect_prevents_a_redirect() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case151");
    let service = host.service("inspect");
    let proxy = host.relay(&service);
    let lower = Action::Redirect(service.key);
    let filters = [(2, Action::Permit), (1, lower)];
    let filters = filters
        .map(|(weight, action)| both_families(LayerKind::ConnectRedirect, weight, action, &[]));
    for filters in [&filters[..1], &filters[..]] {
        host.commit(&filters.concat(), &[]);
        let report = host.connect_and_send(&origin.address.to_string(), "x");
        assert_eq!(report["reply"], "originx", "{report}");
    }
    assert!(proxy.flows().is_empty());
    assert_eq!(host.count(Counter::Redirected), 0);
    host.commit(&filters[1], &[]);
    let report = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(
        (report["reply"].as_str(), proxy.flows().len()),
        (Some("originx"), 1)
    );
}
