//! The policy compiler: rules in, the kernel's image out (`bpf/sidetrack.h`, The policy).
//!
//! An image is an array of lines of 64 bytes. Its rules stand in their order, so that a rule's number
//! is its rank. Beside them stands, for each layer, an index: it finds the rules that may match without
//! looking at the others. The index is a hint only: the kernel tests every condition of what it finds.

mod image;
mod index;
mod prefilter;

use std::ops::Range;

use sidetrack_abi::kernel;

pub use image::Image;

use crate::field_values::Host;
use crate::reference::may_take_groups;
use crate::rule::Rule;
use crate::test::Test;
use crate::{Absent, Action, Context, Error, Family, Field, Layer, LayerKind};

/// Gives a fixed context its number in the kernel, or refuses if there is no room.
pub type ContextNumbers<'a> = dyn FnMut(&[u8]) -> Result<u32, Error> + 'a;

/// Lowers rules that [`crate::rule::order`] has put in order.
///
/// Errors: FWP_E_OUT_OF_BOUNDS (a cgroup too deep), and those of `contexts`.
pub fn compile(
    generation: u32,
    rules: &[Rule<'_>],
    host: &dyn Host,
    contexts: &mut ContextNumbers<'_>,
) -> Result<Image, Error> {
    let mut image = Image::new(generation, rules.len());
    let mut tests = Vec::with_capacity(rules.len());
    for rule in rules {
        tests.push(lower_conditions(rule, host)?);
    }
    for (rank, tests) in tests.iter().enumerate() {
        let mut filter = lower_rule(rank, rules, contexts)?;
        image.set_conditions(&mut filter, tests, first_tested(tests));
        image.set_filter(rank, &filter);
    }
    for layer in Layer::all() {
        let ranks = ranks_of(layer, rules);
        if ranks.is_empty() {
            continue;
        }
        let root = index::build(&mut image, &tests, ranks.clone());
        image.set_layer(layer, &lower_layer(layer, root, rules, &tests, ranks));
    }
    for (rank, rule) in (0..).zip(rules) {
        if let (Some(service), LayerKind::ConnectRedirect) = (rule.service, rule.filter.layer.kind)
        {
            image.set_place(rule.filter.layer.family == Family::V6, service, rank + 1);
        }
    }
    Ok(image.finish())
}

/// A rule's tests, those of one field together.
fn lower_conditions(rule: &Rule<'_>, host: &dyn Host) -> Result<Vec<(bool, Test)>, Error> {
    let mut conditions: Vec<_> = rule.filter.conditions.iter().collect();
    conditions.sort_by_key(|condition| condition.field);
    let last_of_field = |index: usize| {
        conditions
            .get(index + 1)
            .is_none_or(|next| next.field != conditions[index].field)
    };
    conditions
        .iter()
        .enumerate()
        .map(|(index, condition)| {
            let test = Test::of(condition, rule.filter.layer, host)?;
            Ok((last_of_field(index), test))
        })
        .collect()
}

/// The test to begin with, by its index: of those that stand alone for their field, the one that tells
/// most. Most filters that do not match fail there.
fn first_tested(tests: &[(bool, Test)]) -> Option<usize> {
    let stands_alone = |&index: &usize| tests[index].0 && (index == 0 || tests[index - 1].0);
    let tells = |&index: &usize| match Field::ALL.get(usize::from(tests[index].1.field)) {
        Some(Field::RemoteAddress) => 3,
        Some(Field::RemotePort | Field::App | Field::CurrentApp) => 2,
        Some(Field::Protocol | Field::Direction | Field::Flags) => 0,
        _ => 1,
    };
    (0..tests.len()).filter(stands_alone).max_by_key(tells)
}

fn ranks_of(layer: Layer, rules: &[Rule<'_>]) -> Range<usize> {
    let first = rules.partition_point(|rule| rule.filter.layer.index() < layer.index());
    let end = rules.partition_point(|rule| rule.filter.layer.index() <= layer.index());
    first..end
}

fn lower_layer(
    layer: Layer,
    root: u32,
    rules: &[Rule<'_>],
    tests: &[Vec<(bool, Test)>],
    ranks: Range<usize>,
) -> kernel::Layer {
    let wants = tests[ranks.clone()]
        .iter()
        .flatten()
        .fold(0, |wants, (_, test)| wants | 1 << test.field);
    let prefilter = prefilter::Prefilter::of(layer.family, tests[ranks.clone()].iter());
    let unruly = |rule: &Rule<'_>| matches!(rule.filter.action, Action::Veto | Action::Inspect);
    kernel::Layer {
        root,
        wants,
        first: ranks.start as u32,
        end: ranks.end as u32,
        flags: if rules[ranks].iter().any(unruly) {
            kernel::LAYER_BEYOND_HARD_PERMIT
        } else {
            0
        },
        protocols: prefilter.protocols,
        addresses: prefilter.addresses,
        ports: prefilter.ports,
    }
}

fn lower_rule(
    rank: usize,
    rules: &[Rule<'_>],
    contexts: &mut ContextNumbers<'_>,
) -> Result<kernel::Filter, Error> {
    let rule = &rules[rank];
    let context_id = match rule.context {
        _ if rule.service.is_none() => 0,
        Context::Fixed(bytes) if !bytes.is_empty() => contexts(bytes)?,
        Context::None | Context::Fixed(_) => 0,
        Context::Auto => kernel::CONTEXT_AUTO,
    };
    Ok(kernel::Filter {
        id: rule.filter.id,
        sublayer_end: sublayer_end(rank, rules),
        context_id,
        service: rule.service.unwrap_or(0),
        action: match rule.filter.action {
            Action::Permit => kernel::ACTION_PERMIT,
            Action::Block => kernel::ACTION_BLOCK,
            Action::Veto => kernel::ACTION_VETO,
            Action::Inspect => kernel::ACTION_INSPECT,
            Action::Redirect(_) => kernel::ACTION_REDIRECT,
        },
        flags: flag(
            rule.filter.clear_action_right,
            kernel::FILTER_CLEAR_ACTION_RIGHT,
        ) | flag(
            rule.on_absent == Absent::Permit,
            kernel::FILTER_ABSENT_PERMIT,
        ) | flag(may_take_groups(rule.filter), kernel::FILTER_GROUPS),
        ..zerocopy::FromZeros::new_zeroed()
    })
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// The rank of the next sublayer's, or layer's, first rule. Found by halves: sublayers may be large.
fn sublayer_end(rank: usize, rules: &[Rule<'_>]) -> u32 {
    let of = |rule: &Rule<'_>| (rule.filter.layer.index(), rule.sublayer);
    let own = of(&rules[rank]);
    // Doubling steps, then halves between the last two.
    let mut step = 1;
    let mut inside = rank;
    while inside + step < rules.len() && of(&rules[inside + step]) == own {
        inside += step;
        step *= 2;
    }
    let end = (inside + step).min(rules.len());
    let within = rules[inside..end].partition_point(|rule| of(rule) == own);
    (inside + within) as u32
}
