//! What a policy means: the matcher that defines it (specification, 3.2, 4.4 and 4.7).
//!
//! Written for being read. `compile` lowers the same rules for the kernel, and a property test holds
//! the kernel to this, on the real kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::field::address_type;
use crate::field_values::{FieldValues, Host, address_key};
use crate::rule::Rule;
use crate::{Absent, Action, Condition, Field, Filter, MatchType, Value};

/// What a connection has met, and how the services are.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Numbers of the services that have seen the connection.
    pub seen: Vec<u16>,
    /// Numbers of those that nobody listens for.
    pub absent: Vec<u16>,
    /// Redirects of a lower rank stand for services that a legacy proxy's place tells us have seen it.
    pub legacy_min_rank: u32,
}

/// What a layer answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Not permitted.
    pub blocked: bool,
    /// Lower sublayers could not change it.
    pub hard: bool,
    /// The rank of the rule that decided; none: nothing matched, and it is permitted.
    pub decided_by: Option<u32>,
    /// The rank of the rule whose service is to see it. Of no effect if blocked.
    pub redirect: Option<u32>,
    /// It is blocked because the service is absent.
    pub absent: bool,
    /// A callout's block overruled a hard permit.
    pub vetoed: bool,
    /// Each rule that matched and was looked at, in order, with what came of it.
    pub steps: Vec<(u32, Step)>,
}

/// What came of a rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its service has seen the connection: matching goes on.
    Seen,
    /// A legacy proxy stands behind it: its service counts as having seen the connection.
    BehindPlace,
    /// The right to act was cleared in a higher sublayer: a redirect is passed over.
    NoRight,
    /// Its service is absent, and it says to go on without it.
    AbsentPassed,
    /// Its service is absent: blocked.
    AbsentBlocked,
    /// It was told as an event.
    Inspected,
    /// It ends its sublayer and permits.
    Permitted,
    /// It ends its sublayer and blocks.
    Blocked,
    /// It blocks over a hard permit.
    Vetoed,
    /// It ends its sublayer and redirects.
    Redirected,
    /// It would redirect, but a higher sublayer does so already: it permits.
    RedirectedElsewhere,
    /// It ends its sublayer, but what a higher one said stands.
    Overruled,
}

/// Judges a connection. `rules` are ordered: see [`crate::rule::order`].
pub fn classify(
    rules: &[Rule<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    situation: &Situation,
) -> Verdict {
    let mut seen = situation.seen.clone();
    seen.extend(assumed(rules, host, field_values, situation));
    let mut verdict = Verdict::default();
    let mut done = None; // the sublayer that has had its say
    for (rank, rule) in (0..).zip(rules) {
        if done == Some(rule.sublayer) || !matches(rule, host, field_values) {
            continue;
        }
        let step = verdict.step(rank, rule, &seen, situation);
        verdict.steps.push((rank, step));
        if step.ends_sublayer() {
            done = Some(rule.sublayer);
        }
        if verdict.blocked && verdict.hard {
            break; // nothing can change it
        }
    }
    verdict
}

/// The services before a legacy proxy's place that would have seen the connection.
pub fn assumed(
    rules: &[Rule<'_>],
    host: &dyn Host,
    field_values: &FieldValues,
    situation: &Situation,
) -> Vec<u16> {
    let mut services = Vec::new();
    for (rank, rule) in (0..situation.legacy_min_rank).zip(rules) {
        let new = |service| !situation.seen.contains(&service) && !services.contains(&service);
        if let Some(service) = rule.service
            && matches(rule, host, field_values)
            && new(service)
            && rank < situation.legacy_min_rank
        {
            services.push(service);
        }
    }
    services
}

/// Whether a rule's layer is asked and its conditions hold: one of each field's.
pub fn matches(rule: &Rule<'_>, host: &dyn Host, field_values: &FieldValues) -> bool {
    let conditions = &rule.filter.conditions;
    let fields: BTreeSet<Field> = conditions.iter().map(|each| each.field).collect();
    rule.filter.layer == field_values.layer
        && (!is_to_group(field_values) || may_take_groups(rule.filter))
        && fields.into_iter().all(|field| {
            conditions
                .iter()
                .filter(|each| each.field == field)
                .any(|each| holds(each, host, field_values))
        })
}

/// Multicast and broadcast reach many, and a proxy only one: a redirect takes them only if it names
/// where to. Windows has no such rule.
pub fn may_take_groups(filter: &Filter) -> bool {
    let names = |each: &Condition| {
        matches!(
            each.field,
            Field::RemoteAddress | Field::DestinationAddressType
        )
    };
    filter.action.service().is_none() || filter.conditions.iter().any(names)
}

fn is_to_group(field_values: &FieldValues) -> bool {
    [address_type::MULTICAST, address_type::BROADCAST]
        .map(u128::from)
        .contains(&field_values.value(Field::DestinationAddressType))
}

/// The conditions that keep a rule from matching: those of the first field of which none holds.
pub fn fails_at(rule: &Rule<'_>, host: &dyn Host, field_values: &FieldValues) -> String {
    let conditions = &rule.filter.conditions;
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
        .unwrap_or_else(|| "it names no multicast or broadcast address".to_owned())
}

/// Whether one condition holds.
pub fn holds(condition: &Condition, host: &dyn Host, field_values: &FieldValues) -> bool {
    let actual = field_values.value(condition.field);
    let number = |value: &Value| match value {
        Value::Uint(number) => u128::from(*number),
        Value::Address(address) => address_key(*address),
        _ => 0, // no other value passes Condition::check here
    };
    match condition.match_type {
        MatchType::Equal => equals(condition, host, field_values),
        MatchType::NotEqual => !equals(condition, host, field_values),
        MatchType::Greater => actual > number(&condition.value),
        MatchType::Less => actual < number(&condition.value),
        MatchType::GreaterOrEqual => actual >= number(&condition.value),
        MatchType::LessOrEqual => actual <= number(&condition.value),
        MatchType::Range => match &condition.value {
            Value::Range(low, high) => (number(low)..=number(high)).contains(&actual),
            _ => false,
        },
        MatchType::FlagsAllSet => actual & number(&condition.value) == number(&condition.value),
        MatchType::FlagsAnySet => actual & number(&condition.value) != 0,
        MatchType::FlagsNoneSet => actual & number(&condition.value) == 0,
        MatchType::Prefix => is_below(condition, host, field_values),
        MatchType::NotPrefix => !is_below(condition, host, field_values),
        MatchType::EqualCaseInsensitive => false,
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
    /// A rule matched: what comes of it.
    fn step(&mut self, rank: u32, rule: &Rule<'_>, seen: &[u16], situation: &Situation) -> Step {
        match rule.filter.action {
            Action::Inspect => Step::Inspected,
            Action::Permit => self.permit(rank, rule.filter.clear_action_right, Step::Permitted),
            Action::Block => self.block(rank),
            Action::Veto => self.veto(rank),
            Action::Redirect(_) => self.redirect(rank, rule, seen, situation),
        }
    }

    fn redirect(
        &mut self,
        rank: u32,
        rule: &Rule<'_>,
        seen: &[u16],
        situation: &Situation,
    ) -> Step {
        let Some(service) = rule.service else {
            return Step::NoRight;
        };
        let hard = rule.filter.clear_action_right;
        if rank < situation.legacy_min_rank {
            return Step::BehindPlace;
        }
        if seen.contains(&service) {
            return Step::Seen;
        }
        if self.redirect.is_some() {
            return self.permit(rank, hard, Step::RedirectedElsewhere);
        }
        if self.hard {
            return Step::NoRight;
        }
        if situation.absent.contains(&service) {
            if rule.on_absent == Absent::Permit {
                return Step::AbsentPassed;
            }
            self.block(rank);
            self.absent = true;
            return Step::AbsentBlocked;
        }
        self.redirect = Some(rank);
        self.permit(rank, hard, Step::Redirected)
    }

    fn permit(&mut self, rank: u32, hard: bool, step: Step) -> Step {
        if self.hard {
            return Step::Overruled;
        }
        if self.blocked || self.decided_by.is_none() {
            self.decided_by = Some(rank);
        }
        self.blocked = false;
        self.hard = hard;
        step
    }

    fn block(&mut self, rank: u32) -> Step {
        if self.hard {
            return Step::Overruled;
        }
        if !self.blocked {
            self.decided_by = Some(rank);
        }
        self.blocked = true;
        self.hard = true;
        Step::Blocked
    }

    /// A callout's block: soft, but it overrules even a hard permit.
    fn veto(&mut self, rank: u32) -> Step {
        let over_hard_permit = self.hard && !self.blocked;
        if self.blocked {
            return Step::Overruled;
        }
        self.blocked = true;
        self.hard = over_hard_permit;
        self.vetoed = over_hard_permit;
        self.decided_by = Some(rank);
        if over_hard_permit {
            Step::Vetoed
        } else {
            Step::Blocked
        }
    }
}

impl Step {
    fn ends_sublayer(self) -> bool {
        !matches!(
            self,
            Self::Seen | Self::BehindPlace | Self::NoRight | Self::AbsentPassed | Self::Inspected
        )
    }
}
