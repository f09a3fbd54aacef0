//! Where a connection would go, and why: each question the kernel would ask, with every filter that was
//! looked at. Answered by the reference.

use crate::field_values::{FieldValues, Host, Program};
use crate::reference::{Situation, Step, Verdict, classify, fails_at, matches};
use crate::rule::Rule;
use crate::{Layer, LayerKind};

/// Filters told of for one question; those that match come before those that do not.
pub const LOOKS_MAX: usize = 1000;
/// Services one connection may pass (design: the 17th is refused).
const CHAIN_MAX: usize = sidetrack_abi::kernel::CHAIN_MAX;

/// A connection's way.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// In the order in which the kernel asks.
    pub questions: Vec<Question>,
    /// The services that would see it, in order.
    pub chain: Vec<u16>,
    /// How it ends.
    pub end: End,
}

/// How a way ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// It goes to where it was going.
    #[default]
    Arrives,
    /// The last question's verdict refuses it.
    Blocked,
    /// A 17th service matches.
    ChainTooLong,
}

/// One question of the kernel's.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which layer.
    pub layer: Layer,
    /// The service whose proxy goes on; none: the program itself.
    pub by: Option<u16>,
    /// The filters looked at, in order.
    pub looks: Vec<Look>,
    /// Not told of, for [`LOOKS_MAX`].
    pub left_out: usize,
    /// What came of it.
    pub verdict: Verdict,
}

/// A filter, looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its rank.
    pub rank: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No condition of a field holds: these, in words.
    NoMatch(String),
    /// It would match, but its sublayer had had its say, or nothing could change the verdict.
    NotReached,
    /// It matched.
    Matched(Step),
}

/// Follows a connection, from its connect on, through each service that would see it.
///
/// `field_values.layer` tells the family, and is the one layer asked if `only`. `absent` are the numbers of
/// services that nobody listens for.
pub fn explain(
    rules: &[Rule<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    absent: &[u16],
    only: bool,
) -> Way {
    let mut way = Way::default();
    let mut field_values = field_values.clone();
    if only {
        let (question, _) = ask(rules, host, &field_values, &way.chain, absent);
        way.end = if question.verdict.blocked {
            End::Blocked
        } else {
            End::Arrives
        };
        way.chain.extend(
            question
                .verdict
                .redirect
                .and_then(|rank| rules[rank as usize].service),
        );
        way.questions.push(question);
        return way;
    }
    loop {
        field_values.redirected = false;
        let (redirected, blocked) = hop(&mut way, rules, host, &mut field_values, absent);
        if blocked {
            way.end = End::Blocked;
            return way;
        }
        let Some(service) = redirected else {
            return way;
        };
        if way.chain.len() == CHAIN_MAX {
            way.end = End::ChainTooLong;
            return way;
        }
        way.chain.push(service);
        field_values.proxied = true;
        field_values.current = Program::default();
    }
}

/// One connect: is it redirected, and may it?
fn hop(
    way: &mut Way,
    rules: &[Rule<'_>],
    host: &dyn Host,
    field_values: &mut FieldValues,
    absent: &[u16],
) -> (Option<u16>, bool) {
    let mut service = None;
    for kind in [LayerKind::ConnectRedirect, LayerKind::AuthConnect] {
        field_values.layer.kind = kind;
        let (question, to) = ask(rules, host, field_values, &way.chain, absent);
        let blocked = question.verdict.blocked;
        way.questions.push(question);
        if blocked {
            return (None, true);
        }
        service = service.or(to);
        field_values.redirected = service.is_some();
    }
    (service, false)
}

fn ask(
    rules: &[Rule<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    chain: &[u16],
    absent: &[u16],
) -> (Question, Option<u16>) {
    let situation = Situation {
        seen: chain.to_vec(),
        absent: absent.to_vec(),
        legacy_min_rank: 0,
    };
    let verdict = classify(rules, host, field_values, &situation);
    let service = verdict
        .redirect
        .and_then(|rank| rules[rank as usize].service);
    let mut looks: Vec<Look> = verdict
        .steps
        .iter()
        .map(|&(rank, step)| Look {
            rank,
            outcome: Outcome::Matched(step),
        })
        .collect();
    let mut left_out = 0;
    for (rank, rule) in (0..)
        .zip(rules)
        .filter(|(_, rule)| rule.filter.layer == field_values.layer)
    {
        if verdict.steps.iter().any(|&(known, _)| known == rank) {
            continue;
        }
        if looks.len() >= LOOKS_MAX {
            left_out += 1;
            continue;
        }
        looks.push(Look {
            rank,
            outcome: if matches(rule, host, field_values) {
                Outcome::NotReached
            } else {
                Outcome::NoMatch(fails_at(rule, host, field_values))
            },
        });
    }
    looks.sort_by_key(|look| look.rank);
    let question = Question {
        layer: field_values.layer,
        by: chain.last().copied(),
        looks,
        left_out,
        verdict,
    };
    (question, service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_values::{CgroupId, FileId};
    use crate::rule::order;
    use crate::{
        Absent, Action, Condition, Context, Field, Filter, Identity, Lifetime, Records, Service,
        Uuid, Value, Weight,
    };

    struct Nowhere;

    impl Host for Nowhere {
        fn file(&self, _: &str) -> Option<FileId> {
            None
        }
        fn cgroup(&self, _: &str) -> Option<CgroupId> {
            None
        }
    }

    fn service(key: u128) -> Service {
        Service {
            identity: Identity {
                key: Uuid::from_u128(key),
                name: format!("s{key}"),
                description: String::new(),
            },
            lifetime: Lifetime::Static,
            provider: None,
            records: Records::Required,
            on_absent: Absent::Block,
            context: Context::None,
        }
    }

    #[test]
    fn a_way_leads_through_each_service_and_says_why() {
        let [layer, _] = LayerKind::ConnectRedirect.both();
        let redirect = |key: u128, weight| Filter {
            weight: Weight::Literal(weight),
            id: key as u64,
            ..Filter::new("to", layer, Action::Redirect(Uuid::from_u128(key)))
        };
        let other = Filter {
            conditions: vec![Condition::equal(Field::RemotePort, Value::Uint(22))],
            ..Filter::new("ssh", layer, Action::Block)
        };
        let filters = [redirect(1, 9), redirect(2, 5), other];
        let services = [service(1), service(2)];
        let rules = order(&filters, [], (1..).zip(&services)).unwrap();
        let field_values = FieldValues {
            layer,
            program: Program::default(),
            current: Program::default(),
            local: "0.0.0.0:0".parse().unwrap(),
            remote: "192.0.2.1:443".parse().unwrap(),
            protocol: 6,
            netns: 1,
            inbound: false,
            redirected: false,
            proxied: false,
        };
        let way = explain(&rules, &Nowhere, &field_values, &[], false);
        assert_eq!(
            (way.chain.as_slice(), way.end),
            ([1, 2].as_slice(), End::Arrives)
        );
        assert_eq!(way.questions.len(), 6); // two layers, asked three times
        let first: Vec<_> = way.questions[0]
            .looks
            .iter()
            .map(|look| &look.outcome)
            .collect();
        // The universal sublayer holds all three; the one for SSH has the highest automatic weight.
        assert_eq!(*first[0], Outcome::NoMatch("remote_port=22".into()));
        assert_eq!(*first[1], Outcome::Matched(Step::Redirected));
        assert_eq!(*first[2], Outcome::NotReached);
        let absent = explain(&rules, &Nowhere, &field_values, &[2], false);
        assert_eq!(
            (absent.chain.as_slice(), absent.end),
            ([1].as_slice(), End::Blocked)
        );
    }
}
