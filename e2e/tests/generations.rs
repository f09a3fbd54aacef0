//! Each connection is judged by one policy generation (design 7.7): two policies whose every part
//! tells which of them it is.

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
/// One that only the first policy redirects, one that only the second does, and one of both.
const PORTS: [u16; 3] = [80, 81, 82];
/// Filters that match nothing, between those that do.
const FILLERS: u64 = 64;

/// One of the two policies.
#[derive(Clone, Copy)]
struct Side {
    name: &'static str,
    service: Uuid,
    redirects: [u16; 2],
    blocks: u16,
    ids: u64,
}

impl Side {
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

    /// What this policy redirects must arrive as redirected at the next layer, and what it does not
    /// must not: whoever has been judged by the other policy before is vetoed.
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

fn sides(host: &mut Host) -> [Side; 2] {
    let mut side = |name, redirects, blocks, ids| {
        let spec = ServiceSpec::new(name);
        let service = host.service_of(&spec);
        host.answer_storm_with(&service, answer);
        Side {
            name,
            service: spec.key,
            redirects,
            blocks,
            ids,
        }
    };
    [
        side("first", [PORTS[0], PORTS[2]], PORTS[1], 1_000),
        side("second", [PORTS[1], PORTS[2]], PORTS[0], 2_000),
    ]
}

/// The destination, if service, filter and context are of one policy.
fn answer(flow: &Flow) -> String {
    let chain: Vec<_> = flow.chain().collect();
    let filter = flow.filter_id();
    let (name, ids) = match filter {
        1_000..2_000 => ("first", 1_000),
        _ => ("second", 2_000),
    };
    let port = flow.original_destination().port();
    let known = (chain == [name])
        && flow.context() == Some(name.as_bytes())
        && [ids + 1, ids + 900].contains(&filter)
        && (port == PORTS[2]) == (filter == ids + 900);
    match known {
        true => flow.original_destination().to_string(),
        false => format!("{chain:?} by {filter} with {:?}", flow.context()),
    }
}

fn commit(engine: &mut Engine, side: Side) {
    let filters = side.filters();
    engine.commit(&filters, &[]).expect("the policy is good");
}

#[test]
fn each_connection_is_judged_by_one_generation() {
    let mut host = Host::new("swaps");
    let sides = sides(&mut host);
    for filter in sides.iter().flat_map(|side| side.filters()) {
        filter.check().expect("it is a good filter");
    }
    commit(host.engine(), sides[0]);
    let started = Instant::now();
    let storms = PORTS.map(|port| {
        let port = port.to_string();
        let storm = [
            "storm",
            "--threads",
            "2",
            "--count",
            "100000",
            "--until-told",
        ];
        host.client(&[&storm[..], &["--port", &port]].concat())
    });
    for swap in 1..=SWAPS {
        commit(host.engine(), sides[swap % 2]);
    }
    let told = storms.map(e2e::Client::json);
    println!("{SWAPS} swaps in {:?}: {told:?}", started.elapsed());
    let by_a_block = "Permission denied (os error 13)";
    let mut blocked = 0;
    for (port, told) in PORTS.into_iter().zip(&told) {
        let failures = told["failures"].as_object().expect("it is one");
        let kinds: BTreeSet<_> = failures.keys().map(String::as_str).collect();
        let expected = match port {
            82 => BTreeSet::new(),
            _ => BTreeSet::from([by_a_block]),
        };
        assert_eq!(kinds, expected, "port {port}: {told}");
        blocked += failures.get(by_a_block).and_then(Json::as_u64).unwrap_or(0);
        assert!(told["good"].as_u64() > Some(100), "port {port}: {told}");
    }
    assert_eq!(
        host.count(Counter::Vetoed),
        0,
        "none was judged by a mixture"
    );
    assert_eq!(host.count(Counter::Blocked), blocked);
    assert!(blocked > 100, "both policies were in force");
}
