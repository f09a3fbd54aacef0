//! The reference: the classification that defines what a policy means (docs/wfp.md, 3.2, 4.5 and
//! 4.7).
//!
//! It is written for reading, not for speed. [`mod@crate::compile`] lowers the same filters for the
//! kernel, and a property test, `e2e/tests/policy.rs`, compares the verdicts of a real kernel with
//! these.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::field::address_type;
use crate::field_values::{FieldValues, Host, address_key};
use crate::rank::RankedFilter;
use crate::{Absent, Action, Condition, Field, Filter, MatchType, Value};

/// What is known about the services when a connection is classified. Services are given by their
/// numbers.
#[derive(Clone, Debug, Default)]
pub struct ServiceStates {
    /// Services that have seen the connection: its chain.
    pub seen: Vec<u16>,
    /// Services without a listener for the connection's protocol and family.
    pub absent: Vec<u16>,
    /// For a legacy proxy's connection: 1 + the rank of the last filter that redirects to the
    /// proxy's service. The services of lower ranks, if their filters match, are assumed to have
    /// seen it. Otherwise 0.
    pub legacy_min_rank: u32,
    /// True for a connect of a service's own process without redirect records, if the service has
    /// [`RecordsMode::RequiredOrOwn`](crate::RecordsMode::RequiredOrOwn): filters that redirect are
    /// skipped.
    pub own_traffic: bool,
}

/// The result of a classification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// True if the connection is blocked; false if it is permitted.
    pub blocked: bool,
    /// True if lower sublayers cannot change the verdict, except by a veto of a hard permit.
    pub hard: bool,
    /// Rank of the filter that decided; none if no filter did, and the connection is permitted.
    pub decided_by: Option<u32>,
    /// Rank of the filter that redirects. It has no effect if the connection is blocked.
    pub redirect: Option<u32>,
    /// True if the connection is blocked because a service is absent.
    pub absent: bool,
    /// True if a veto overruled a hard permit.
    pub vetoed: bool,
    /// The matching filters that were evaluated, by rank, each with its effect.
    pub effects: Vec<(u32, MatchEffect)>,
}

/// The effect of a filter that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchEffect {
    /// No effect: its service has already seen the connection. The evaluation continues.
    AlreadySeen,
    /// No effect: its rank is below [`ServiceStates::legacy_min_rank`], so its service is assumed
    /// to have seen the connection. The evaluation continues.
    AssumedSeen,
    /// No effect: it redirects, and the connection is a service's own traffic. The evaluation
    /// continues.
    OwnTraffic,
    /// No effect: it redirects, but the verdict of a higher sublayer is hard. The evaluation
    /// continues.
    NoActionRight,
    /// No effect: its service is absent, and the filter is skipped then. The evaluation continues.
    AbsentSkipped,
    /// It blocks because its service is absent, and ends its sublayer.
    AbsentBlocked,
    /// It reports the connection as an event. The evaluation continues.
    Inspected,
    /// It permits, and ends its sublayer.
    Permitted,
    /// It blocks, and ends its sublayer.
    Blocked,
    /// It blocks although a higher sublayer has a hard permit, and ends its sublayer.
    Vetoed,
    /// It redirects, and ends its sublayer.
    Redirected,
    /// It only permits, since a higher sublayer redirects already, and ends its sublayer.
    RedirectedElsewhere,
    /// It ends its sublayer, but does not change the verdict of a higher sublayer.
    Overruled,
}

/// Classifies a connection at the layer `field_values.layer`.
///
/// `filters` are in the order of [`crate::rank::order`]; those of other layers are ignored.
pub fn classify(
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    states: &ServiceStates,
) -> Verdict {
    let mut seen = states.seen.clone();
    seen.extend(assumed_services(filters, host, field_values, states));
    let mut verdict = Verdict::default();
    let mut done = None; // the group that has contributed its verdict
    for (rank, ranked) in (0..).zip(filters) {
        if done == Some(ranked.group()) || !matches(ranked, host, field_values) {
            continue;
        }
        let effect = verdict.apply(rank, ranked, &seen, states);
        verdict.effects.push((rank, effect));
        if effect.ends_sublayer() {
            done = Some(ranked.group());
        }
        if verdict.blocked && verdict.hard {
            break; // no filter can change this verdict
        }
    }
    verdict
}

/// The services that are assumed to have seen a legacy proxy's connection: see
/// [`ServiceStates::legacy_min_rank`]. Those that are known to have seen it are left out.
pub fn assumed_services(
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    states: &ServiceStates,
) -> Vec<u16> {
    let mut services = Vec::new();
    for (rank, ranked) in (0..states.legacy_min_rank).zip(filters) {
        let new = |service| !states.seen.contains(&service) && !services.contains(&service);
        if let Some(service) = ranked.service
            && matches(ranked, host, field_values)
            && new(service)
            && rank < states.legacy_min_rank
        {
            services.push(service);
        }
    }
    services
}

/// True if the filter is of this layer and matches: of the conditions on each field, at least one
/// holds, and a filter that is restricted to one user meets no elevated program.
pub fn matches(ranked: &RankedFilter<'_>, host: &dyn Host, field_values: &FieldValues) -> bool {
    let conditions = ranked.filter.effective_conditions();
    let fields: BTreeSet<Field> = conditions.iter().map(|each| each.field).collect();
    ranked.filter.layer == field_values.layer
        && (!is_to_group(field_values) || may_match_groups(ranked.filter))
        && !is_elevated_for(ranked.filter, field_values)
        && fields.into_iter().all(|field| {
            conditions
                .iter()
                .filter(|each| each.field == field)
                .any(|each| holds(each, host, field_values))
        })
}

/// True if the filter can match datagrams to multicast and broadcast addresses.
///
/// Such a datagram reaches many hosts, but a proxy would forward it to one. So a redirect matches
/// it only if a condition tests the remote address or its type. Windows has no such rule.
pub fn may_match_groups(filter: &Filter) -> bool {
    let tests_destination = |each: &Condition| {
        matches!(
            each.field,
            Field::RemoteAddress | Field::DestinationAddressType
        )
    };
    filter.action.service().is_none() || filter.conditions.iter().any(tests_destination)
}

fn is_to_group(field_values: &FieldValues) -> bool {
    [address_type::MULTICAST, address_type::BROADCAST]
        .map(u128::from)
        .contains(&field_values.value(Field::DestinationAddressType))
}

/// Why a filter of this layer does not match, as a text: what it requires and the connection does
/// not have.
///
/// The text lists the conditions on the first field that has no condition that holds, joined by "or".
pub fn unmet_requirement(
    ranked: &RankedFilter<'_>,
    host: &dyn Host,
    field_values: &FieldValues,
) -> String {
    let conditions = ranked.filter.effective_conditions();
    let fields: BTreeSet<Field> = conditions.iter().map(|each| each.field).collect();
    let of = |field| conditions.iter().filter(move |each| each.field == field);
    fields
        .into_iter()
        .find(|&field| !of(field).any(|each| holds(each, host, field_values)))
        .map(|field| {
            of(field)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" or ")
        })
        .unwrap_or_else(|| {
            match is_elevated_for(ranked.filter, field_values) {
                true => "a program that is not elevated",
                false => "a destination that is neither multicast nor broadcast",
            }
            .to_owned()
        })
}

/// True if the filter is restricted to one user and the program is elevated: then the filter does not
/// match.
fn is_elevated_for(filter: &Filter, field_values: &FieldValues) -> bool {
    filter.only_user.is_some() && field_values.program.elevated
}

/// True if the condition holds for the connection.
pub fn holds(condition: &Condition, host: &dyn Host, field_values: &FieldValues) -> bool {
    match condition.match_type {
        MatchType::Equal => equals(condition, host, field_values),
        MatchType::NotEqual => !equals(condition, host, field_values),
        MatchType::Prefix => is_below(condition, host, field_values),
        MatchType::NotPrefix => !is_below(condition, host, field_values),
        _ => condition.holds_for_number(field_values.value(condition.field)),
    }
}

fn equals(condition: &Condition, host: &dyn Host, field_values: &FieldValues) -> bool {
    let actual = field_values.value(condition.field);
    match (&condition.value, condition.field) {
        (Value::Uint(number), _) => actual == u128::from(*number),
        (Value::Address(address), _) => actual == address_key(*address),
        (Value::Prefix(prefix), Field::LocalAddress) => {
            prefix.contains(&canonical(field_values.local.ip()))
        }
        (Value::Prefix(prefix), _) => prefix.contains(&canonical(field_values.remote.ip())),
        (Value::Path(path), Field::Cgroup | Field::CurrentCgroup) => {
            host.cgroup(path).is_some_and(|cgroup| {
                actual
                    == if cgroup.level == 0 {
                        0
                    } else {
                        cgroup.id.into()
                    }
            })
        }
        (Value::Path(path), _) => host.file(path).is_some_and(|file| actual == file.key()),
        (Value::Range(..), _) => false,
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn is_below(condition: &Condition, host: &dyn Host, field_values: &FieldValues) -> bool {
    let program = match condition.field {
        Field::CurrentCgroup => &field_values.current,
        _ => &field_values.program,
    };
    let Value::Path(path) = &condition.value else {
        return false;
    };
    host.cgroup(path)
        .is_some_and(|cgroup| cgroup.level == 0 || program.cgroups.contains(&cgroup.id))
}

impl Verdict {
    /// Applies a filter that matches, and returns its effect.
    fn apply(
        &mut self,
        rank: u32,
        ranked: &RankedFilter<'_>,
        seen: &[u16],
        states: &ServiceStates,
    ) -> MatchEffect {
        match ranked.filter.action {
            Action::Inspect => MatchEffect::Inspected,
            Action::Permit => self.permit(rank, ranked.filter, MatchEffect::Permitted),
            Action::Block => self.block(rank),
            Action::Veto => self.veto(rank),
            Action::Redirect(_) => self.redirect(rank, ranked, seen, states),
        }
    }

    fn redirect(
        &mut self,
        rank: u32,
        ranked: &RankedFilter<'_>,
        seen: &[u16],
        states: &ServiceStates,
    ) -> MatchEffect {
        let Some(service) = ranked.service else {
            return MatchEffect::NoActionRight;
        };
        if states.own_traffic {
            return MatchEffect::OwnTraffic;
        }
        if rank < states.legacy_min_rank {
            return MatchEffect::AssumedSeen;
        }
        if seen.contains(&service) {
            return MatchEffect::AlreadySeen;
        }
        if self.redirect.is_some() {
            return self.permit(rank, ranked.filter, MatchEffect::RedirectedElsewhere);
        }
        if self.hard {
            return MatchEffect::NoActionRight;
        }
        if states.absent.contains(&service) {
            if ranked.on_absent == Absent::Permit {
                return MatchEffect::AbsentSkipped;
            }
            self.block(rank);
            self.absent = true;
            return MatchEffect::AbsentBlocked;
        }
        self.redirect = Some(rank);
        self.permit(rank, ranked.filter, MatchEffect::Redirected)
    }

    /// Permits, unless the verdict is hard. A filter that is restricted to one user does not lift any
    /// block either.
    fn permit(&mut self, rank: u32, filter: &Filter, effect: MatchEffect) -> MatchEffect {
        if self.hard || (self.blocked && filter.only_user.is_some()) {
            return MatchEffect::Overruled;
        }
        if self.blocked || self.decided_by.is_none() {
            self.decided_by = Some(rank);
        }
        self.blocked = false;
        self.hard = filter.clear_action_right;
        effect
    }

    fn block(&mut self, rank: u32) -> MatchEffect {
        if self.hard {
            return MatchEffect::Overruled;
        }
        if !self.blocked {
            self.decided_by = Some(rank);
        }
        self.blocked = true;
        self.hard = true;
        MatchEffect::Blocked
    }

    /// A block as by a WFP callout: it overrules even a hard permit, and is soft otherwise.
    fn veto(&mut self, rank: u32) -> MatchEffect {
        let over_hard_permit = self.hard && !self.blocked;
        if self.blocked {
            return MatchEffect::Overruled;
        }
        self.blocked = true;
        self.hard = over_hard_permit;
        self.vetoed = over_hard_permit;
        self.decided_by = Some(rank);
        if over_hard_permit {
            MatchEffect::Vetoed
        } else {
            MatchEffect::Blocked
        }
    }
}

impl MatchEffect {
    /// False if the evaluation continues with the next filter of the sublayer.
    fn ends_sublayer(self) -> bool {
        !matches!(
            self,
            Self::AlreadySeen
                | Self::AssumedSeen
                | Self::OwnTraffic
                | Self::NoActionRight
                | Self::AbsentSkipped
                | Self::Inspected
        )
    }
}
