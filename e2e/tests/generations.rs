//! Each connection is classified by one generation of the policy (ARCHITECTURE.md,
//! What must always hold, 7). Every part of the two policies here identifies its policy.

use std::collections::BTreeSet;
use std::time::Instant;

use e2e::Host;
use serde_json::Value as Json;
use sidetrack::Flow;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Engine, ServiceSpec};
use sidetrack_policy::field::flags;
use sidetrack_policy::{
    Action, Condition, Family, Field, Filter, Layer, LayerKind, MatchType, RedirectContext, Uuid,
    Value, Weight,
};

const SWAPS: usize = 1_000;
/// The first policy redirects only the first port, the second policy only the second port, and both the
/// third.
const PORTS: [u16; 3] = [80, 81, 82];
/// Number of filters that match nothing, between those that match.
const FILLERS: u64 = 64;

/// One of the two policies.
#[derive(Clone, Copy)]
struct TestPolicy {
    /// The name of the policy's service and filters, and its context.
    name: &'static str,
    service: Uuid,
    /// The ports that it redirects.
    redirects: [u16; 2],
    /// The port that it blocks.
    blocks: u16,
    /// The ids of its filters are above this number.
    ids: u64,
}

impl TestPolicy {
    fn filter(
        self,
        kind: LayerKind,
        id: u64,
        action: Action,
        conditions: Vec<Condition>,
    ) -> Filter {
        let family = Family::V4;
        Filter {
            id: self.ids + id,
            weight: Weight::Literal(1_000 - id),
            conditions,
            ..Filter::new(self.name, Layer { kind, family }, action)
        }
    }

    fn redirect(self, id: u64, ports: &[u16]) -> Filter {
        let action = Action::Redirect(self.service);
        Filter {
            context: Some(RedirectContext::Fixed(self.name.into())),
            ..self.filter(LayerKind::ConnectRedirect, id, action, to(ports))
        }
    }

    /// The filters at auth connect veto a connection that this policy's connect redirect layer
    /// would not have let through in this form: one that it redirects and that is not redirected,
    /// or the reverse. So a connection that was classified by the other policy at the first layer
    /// is vetoed.
    fn filters(self) -> Vec<Filter> {
        let auth = |id, action, redirected, ports: &[u16]| {
            let match_type = match redirected {
                true => MatchType::FlagsAllSet,
                false => MatchType::FlagsNoneSet,
            };
            let mut conditions = to(ports);
            conditions.push(Condition {
                field: Field::Flags,
                match_type,
                value: Value::Uint(flags::REDIRECTED),
            });
            self.filter(LayerKind::AuthConnect, id, action, conditions)
        };
        let fillers = (10..10 + FILLERS).map(|id| self.redirect(id, &[id as u16]));
        fillers
            .chain([
                self.redirect(1, &self.redirects[..1]),
                self.redirect(900, &self.redirects[1..]),
                auth(2, Action::Veto, false, &self.redirects),
                auth(3, Action::Veto, true, &[self.blocks]),
                auth(4, Action::Block, false, &[self.blocks]),
            ])
            .collect()
    }
}

fn to(ports: &[u16]) -> Vec<Condition> {
    let port = |port: &u16| Condition::equal(Field::RemotePort, Value::Uint((*port).into()));
    ports.iter().map(port).collect()
}

fn two_policies(host: &mut Host) -> [TestPolicy; 2] {
    let mut policy = |name, redirects, blocks, ids| {
        let spec = ServiceSpec::new(name);
        let service = host.service_with_spec(&spec);
        host.answer_storm_with(&service, answer);
        TestPolicy {
            name,
            service: spec.key,
            redirects,
            blocks,
            ids,
        }
    };
    [
        policy("first", [PORTS[0], PORTS[2]], PORTS[1], 1_000),
        policy("second", [PORTS[1], PORTS[2]], PORTS[0], 2_000),
    ]
}

/// The proxies' answer: the destination if service, filter and context are of one policy, and
/// otherwise a description.
fn answer(flow: &Flow) -> String {
    let chain: Vec<_> = flow.chain().collect();
    let filter = flow.filter_id();
    let (name, ids) = match filter {
        1_000..2_000 => ("first", 1_000),
        _ => ("second", 2_000),
    };
    let port = flow.original_destination().port();
    let of_one_policy = (chain == [name])
        && flow.context() == Some(name.as_bytes())
        && [ids + 1, ids + 900].contains(&filter)
        && (port == PORTS[2]) == (filter == ids + 900);
    match of_one_policy {
        true => flow.original_destination().to_string(),
        false => format!("{chain:?} by {filter} with {:?}", flow.context()),
    }
}

fn commit(engine: &mut Engine, policy: TestPolicy) {
    let filters = policy.filters();
    engine.commit(&filters, &[]).expect("the policy is valid");
}

#[test]
fn each_connection_is_classified_by_one_generation() {
    let mut host = Host::new("swaps");
    let policies = two_policies(&mut host);
    for filter in policies.iter().flat_map(|policy| policy.filters()) {
        filter.check().expect("the filter is valid");
    }
    commit(host.engine(), policies[0]);
    let started = Instant::now();
    let storms = PORTS.map(|port| {
        let port = port.to_string();
        let storm = [
            "storm",
            "--threads",
            "2",
            "--count",
            "100000",
            "--until-stdin-ends",
        ];
        host.client(&[&storm[..], &["--port", &port]].concat())
    });
    for swap in 1..=SWAPS {
        commit(host.engine(), policies[swap % 2]);
    }
    let reports = storms.map(e2e::Client::json);
    println!("{SWAPS} swaps in {:?}: {reports:?}", started.elapsed());
    let by_a_block = "Permission denied (os error 13)";
    let mut blocked = 0;
    for (port, report) in PORTS.into_iter().zip(&reports) {
        let failures = report["failures"]
            .as_object()
            .expect("the failures are an object");
        let kinds: BTreeSet<_> = failures.keys().map(String::as_str).collect();
        let expected = match port {
            82 => BTreeSet::new(),
            _ => BTreeSet::from([by_a_block]),
        };
        assert_eq!(kinds, expected, "port {port}: {report}");
        blocked += failures.get(by_a_block).and_then(Json::as_u64).unwrap_or(0);
        assert!(report["good"].as_u64() > Some(100), "port {port}: {report}");
    }
    assert_eq!(
        host.count(Counter::Vetoed),
        0,
        "no connection was classified by a mixture of both policies"
    );
    assert_eq!(host.count(Counter::Blocked), blocked);
    assert!(blocked > 100, "both policies were in force");
}
