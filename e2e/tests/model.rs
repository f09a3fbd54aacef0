//! The odd-numbered cases of the specification's 8.9, the management model, that are about what the
//! kernel does. The others are the daemon's, and tested there: 131, 135, 143, 145, 147, 149; 139 is in
//! `layers.rs`.

use e2e::policy::{both, port, put, redirect};
use e2e::{Host, Origin, netns};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_policy::{Absent, Action, Condition, Field, Filter, LayerKind, Value};

const BLOCKED: i32 = libc::EACCES;
/// Nobody stopped it, and nobody is there.
const PASSED: i32 = libc::ECONNREFUSED;

fn errno(host: &Host, to: &str) -> i32 {
    let told = host.connect(to);
    told["errno"].as_i64().map_or(0, |errno| errno as i32)
}

#[test]
fn case_133_conditions_of_one_field_are_alternatives_and_of_different_fields_all_hold() {
    netns::enter();
    let mut host = Host::new("case133");
    let protocol = |number| Condition::equal(Field::Protocol, Value::Uint(number));
    for (number, at_80_and_443) in [(6, BLOCKED), (17, PASSED)] {
        let conditions = [port(80), port(443), protocol(number)];
        let filters = both(LayerKind::AuthConnect, 1, Action::Block, &conditions);
        put(&mut host, &filters, &[]);
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
fn case_137_higher_weight_decides_alone() {
    netns::enter();
    let mut host = Host::new("case137");
    for (high, low, expected) in [
        (Action::Permit, Action::Block, PASSED),
        (Action::Block, Action::Permit, BLOCKED),
    ] {
        let filters = [(20, high), (10, low)];
        let filters =
            filters.map(|(weight, action)| both(LayerKind::AuthConnect, weight, action, &[]));
        put(&mut host, &filters.concat(), &[]);
        assert_eq!(errno(&host, "127.0.0.1:80"), expected);
    }
    let event = host.await_event(EventKind::Blocked, "127.0.0.1:80");
    assert_eq!(event.filter_id, 20);
    assert_eq!(host.count(Counter::Blocked), 1);
}

/// A callout that is not registered is a service that nobody listens for.
#[test]
fn case_141_service_that_is_absent_blocks_unless_its_filter_permits() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("case141");
    let service = host.service("inspect");
    let action = redirect(&mut host, &service);
    let mut absent = |on_absent| {
        let filters = both(LayerKind::ConnectRedirect, 1, action, &[]);
        let filters = filters.map(|filter| Filter {
            on_absent: Some(on_absent),
            ..filter
        });
        put(&mut host, &filters, &[]);
        host.connect_and_send(&to, "x")
    };
    let refused = absent(Absent::Block);
    assert_eq!(refused["errno"], libc::ECONNREFUSED, "{refused}");
    assert_eq!(absent(Absent::Permit)["reply"], "originx");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::AbsentBlocked), 1);
    assert_eq!(host.count(Counter::AbsentPermitted), 1);
}

/// It decides its sublayer, and so even a redirect below it is not asked.
#[test]
fn case_151_permit_at_connect_redirect_lets_it_go_straight() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("case151");
    let service = host.service("inspect");
    let proxy = host.relay(&service);
    let below = redirect(&mut host, &service);
    let filters = [(2, Action::Permit), (1, below)];
    let filters =
        filters.map(|(weight, action)| both(LayerKind::ConnectRedirect, weight, action, &[]));
    for filters in [&filters[..1], &filters[..]] {
        put(&mut host, &filters.concat(), &[]);
        let told = host.connect_and_send(&origin.address.to_string(), "x");
        assert_eq!(told["reply"], "originx", "{told}");
    }
    assert!(proxy.flows().is_empty());
    assert_eq!(host.count(Counter::Redirected), 0);
    put(&mut host, &filters[1], &[]);
    let told = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(
        (told["reply"].as_str(), proxy.flows().len()),
        (Some("originx"), 1)
    );
}
