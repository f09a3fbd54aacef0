//! Where a connection would go, and why: each classification along its path, with the filters of
//! the layer and what each did. The answers are those of [`crate::reference`].

use crate::field_values::{FieldValues, Host, Program};
use crate::rank::RankedFilter;
use crate::reference::{MatchEffect, ServiceStates, Verdict, classify, matches, unmet_requirement};
use crate::{Layer, LayerKind};

/// Greatest number of filters that are listed for one classification. If the layer has more, those
/// that match are preferred.
pub const FILTERS_LISTED_MAX: usize = 1000;
/// Greatest number of services in a chain; a connection to one more is refused.
const CHAIN_MAX: usize = sidetrack_abi::kernel::CHAIN_MAX;

/// The path of a connection from the program to its destination.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// Classifications, in the order in which the kernel makes them.
    pub classifications: Vec<Classification>,
    /// Numbers of the services that would see the connection, in order.
    pub chain: Vec<u16>,
    /// Whether the connection reaches its destination.
    pub result: ConnectionResult,
}

/// Whether a connection reaches its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionResult {
    /// The connection reaches its original destination.
    #[default]
    ReachesDestination,
    /// The verdict of the last classification blocks it.
    Blocked,
    /// A filter redirects it to a 17th service, so it is refused.
    ChainTooLong,
}

/// One classification: the filters of one layer, evaluated for the connection.
#[derive(Clone, Debug)]
pub struct Classification {
    /// Layer at which the connection is classified.
    pub layer: Layer,
    /// Number of the service whose proxy connects; none if the program itself connects.
    pub proxy_of: Option<u16>,
    /// Filters of the layer by rank; at most [`FILTERS_LISTED_MAX`].
    pub filters: Vec<ListedFilter>,
    /// Number of filters of the layer that are not listed because of that limit.
    pub left_out: usize,
    /// Result of the classification.
    pub verdict: Verdict,
}

/// A filter of the layer, and what it did.
#[derive(Clone, Debug)]
pub struct ListedFilter {
    /// Rank of the filter: its index in the list given to [`explain`].
    pub rank: u32,
    /// What the filter did.
    pub outcome: FilterOutcome,
}

/// What a filter did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterOutcome {
    /// It does not match. The text says what it requires and the connection does not have, for
    /// example `remote_port=80 or remote_port=443`.
    NoMatch(String),
    /// It would match, but was not evaluated: an earlier filter ended its sublayer, or no filter
    /// could change the verdict any more.
    NotReached,
    /// It matched, with this effect.
    Matched(MatchEffect),
}

/// Follows a connection from its connect through each service that would see it.
///
/// `filters` are in the order of [`crate::rank::order`]. `absent` are the numbers of the services
/// without a listener. With `one_layer`, the connection is classified at the layer
/// `field_values.layer` only; otherwise only the family of that layer counts.
pub fn explain(
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    absent: &[u16],
    one_layer: bool,
) -> Explanation {
    let mut explanation = Explanation::default();
    let mut field_values = field_values.clone();
    if one_layer {
        let (classification, service) =
            classify_at_layer(filters, host, &field_values, &explanation.chain, absent);
        if classification.verdict.blocked {
            explanation.result = ConnectionResult::Blocked;
        } else {
            explanation.chain.extend(service);
        }
        explanation.classifications.push(classification);
        return explanation;
    }
    loop {
        field_values.redirected = false;
        let (redirected, blocked) =
            classify_connect(&mut explanation, filters, host, &mut field_values, absent);
        if blocked {
            explanation.result = ConnectionResult::Blocked;
            return explanation;
        }
        let Some(service) = redirected else {
            return explanation;
        };
        if explanation.chain.len() == CHAIN_MAX {
            explanation.result = ConnectionResult::ChainTooLong;
            return explanation;
        }
        explanation.chain.push(service);
        field_values.proxied = true;
        field_values.current = Program::default();
    }
}

/// Classifies one connect at both of its layers. Returns the service to which it is redirected, if
/// to any, and whether it is blocked.
fn classify_connect(
    explanation: &mut Explanation,
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    field_values: &mut FieldValues,
    absent: &[u16],
) -> (Option<u16>, bool) {
    let mut service = None;
    for kind in [LayerKind::ConnectRedirect, LayerKind::AuthConnect] {
        field_values.layer.kind = kind;
        let (classification, redirected_to) =
            classify_at_layer(filters, host, field_values, &explanation.chain, absent);
        let blocked = classification.verdict.blocked;
        explanation.classifications.push(classification);
        if blocked {
            return (None, true);
        }
        service = service.or(redirected_to);
        field_values.redirected = service.is_some();
    }
    (service, false)
}

/// Makes one classification. Also returns the service to which it redirects, if to any.
fn classify_at_layer(
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    chain: &[u16],
    absent: &[u16],
) -> (Classification, Option<u16>) {
    let states = ServiceStates {
        seen: chain.to_vec(),
        absent: absent.to_vec(),
        legacy_min_rank: 0,
        own_traffic: false,
    };
    let verdict = classify(filters, host, field_values, &states);
    let service = verdict
        .redirect
        .and_then(|rank| filters[rank as usize].service);
    let mut listed: Vec<ListedFilter> = verdict
        .effects
        .iter()
        .map(|&(rank, effect)| ListedFilter {
            rank,
            outcome: FilterOutcome::Matched(effect),
        })
        .collect();
    let mut left_out = 0;
    for (rank, ranked) in (0..)
        .zip(filters)
        .filter(|(_, ranked)| ranked.filter.layer == field_values.layer)
    {
        if verdict.effects.iter().any(|&(known, _)| known == rank) {
            continue;
        }
        if listed.len() >= FILTERS_LISTED_MAX {
            left_out += 1;
            continue;
        }
        listed.push(ListedFilter {
            rank,
            outcome: if matches(ranked, host, field_values) {
                FilterOutcome::NotReached
            } else {
                FilterOutcome::NoMatch(unmet_requirement(ranked, host, field_values))
            },
        });
    }
    listed.sort_by_key(|each| each.rank);
    let classification = Classification {
        layer: field_values.layer,
        proxy_of: chain.last().copied(),
        filters: listed,
        left_out,
        verdict,
    };
    (classification, service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_values::EmptyHost;
    use crate::rank::order;
    use crate::{
        Absent, Action, Condition, ConnectMode, Field, Filter, Identity, Lifetime, RecordsMode,
        RedirectContext, Service, Uuid, Value, Weight,
    };

    fn service(key: u128) -> Service {
        Service {
            identity: Identity {
                key: Uuid::from_u128(key),
                name: format!("s{key}"),
                description: String::new(),
            },
            lifetime: Lifetime::Static,
            provider: None,
            records: RecordsMode::Required,
            records_bound: false,
            connect: ConnectMode::Accepted,
            on_absent: Absent::Block,
            context: RedirectContext::None,
        }
    }

    #[test]
    fn an_explanation_follows_the_connection_through_each_service() {
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
        let filters = order(&filters, [], (1..).zip(&services)).unwrap();
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
        let explanation = explain(&filters, &EmptyHost, &field_values, &[], false);
        assert_eq!(
            (explanation.chain.as_slice(), explanation.result),
            ([1, 2].as_slice(), ConnectionResult::ReachesDestination)
        );
        assert_eq!(explanation.classifications.len(), 6); // two layers for each of three connects
        let first: Vec<_> = explanation.classifications[0]
            .filters
            .iter()
            .map(|each| &each.outcome)
            .collect();
        // All three are in the universal sublayer. The automatic weight of the filter for SSH is
        // the highest.
        assert_eq!(*first[0], FilterOutcome::NoMatch("remote_port=22".into()));
        assert_eq!(*first[1], FilterOutcome::Matched(MatchEffect::Redirected));
        assert_eq!(*first[2], FilterOutcome::NotReached);
        let absent = explain(&filters, &EmptyHost, &field_values, &[2], false);
        assert_eq!(
            (absent.chain.as_slice(), absent.result),
            ([1].as_slice(), ConnectionResult::Blocked)
        );
    }
}
