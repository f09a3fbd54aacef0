//! The policy compiler: it lowers ranked filters to the image that the kernel reads (`bpf/policy.h`).
//!
//! An image is an array of lines of 64 bytes. The filters are in their order of evaluation, so a
//! filter's position is its rank. In addition, there is an index for each layer, with which the kernel
//! finds the filters that may match without reading the others. The index is only a hint: the
//! kernel tests every condition of the filters that it finds.

mod image;
mod index;
mod prefilter;

use std::ops::Range;

use sidetrack_abi::kernel;

pub use image::{Image, PolicySource};

use crate::field_values::Host;
use crate::rank::RankedFilter;
use crate::reference::may_match_groups;
use crate::test::Test;
use crate::{Absent, Action, Error, Family, Field, Layer, LayerKind, RedirectContext};

/// Returns the number of a fixed context in the kernel's map of contexts, or an error if the map is
/// full. The flag says whether a filter that is restricted to one user sets it: these filters have
/// only a part of the map.
pub type ContextNumbers<'a> = dyn FnMut(&[u8], bool) -> Result<u32, Error> + 'a;

/// Lowers filters, in the order of [`crate::rank::order`], to an image for a generation.
///
/// Errors: FWP_E_OUT_OF_BOUNDS for a prefix condition on a cgroup deeper than
/// [`crate::field_values::CGROUP_LEVELS_MAX`], and those of `contexts`.
pub fn compile(
    generation: u32,
    filters: &[RankedFilter<'_>],
    host: &dyn Host,
    contexts: &mut ContextNumbers<'_>,
) -> Result<Image, Error> {
    let mut image = Image::new(generation, filters.len());
    let mut tests = Vec::with_capacity(filters.len());
    for ranked in filters {
        tests.push(lower_conditions(ranked, host)?);
    }
    for (rank, tests) in tests.iter().enumerate() {
        let mut filter = lower_filter(rank, filters, contexts)?;
        image.set_conditions(&mut filter, tests, first_tested(tests));
        image.set_filter(rank, &filter);
    }
    for layer in Layer::all() {
        let ranks = ranks_of(layer, filters);
        if ranks.is_empty() {
            continue;
        }
        let mut of_layer = filters[ranks.clone()].iter();
        let by_user = of_layer.any(|ranked| ranked.filter.only_user.is_some());
        let root = index::build(&mut image, &tests, ranks.clone(), by_user);
        image.set_layer(layer, &lower_layer(layer, root, filters, &tests, ranks));
    }
    for (rank, ranked) in (0..).zip(filters) {
        if let (Some(service), LayerKind::ConnectRedirect) =
            (ranked.service, ranked.filter.layer.kind)
        {
            image.set_place(ranked.filter.layer.family == Family::V6, service, rank + 1);
        }
    }
    Ok(image.finish())
}

/// The tests of a filter, sorted by field, each with whether it is the last of its field.
fn lower_conditions(
    ranked: &RankedFilter<'_>,
    host: &dyn Host,
) -> Result<Vec<(bool, Test)>, Error> {
    let effective = ranked.filter.effective_conditions();
    let mut conditions: Vec<_> = effective.iter().collect();
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
            let test = Test::of(condition, ranked.filter.layer, host)?;
            Ok((last_of_field(index), test))
        })
        .collect()
}

/// Index of the test that the kernel makes first: of the tests that are the only one of their
/// field, the most selective. Most filters that do not match fail at it.
fn first_tested(tests: &[(bool, Test)]) -> Option<usize> {
    let is_only_one = |&index: &usize| tests[index].0 && (index == 0 || tests[index - 1].0);
    let selectivity = |&index: &usize| match Field::ALL.get(usize::from(tests[index].1.field)) {
        Some(Field::RemoteAddress) => 3,
        Some(Field::RemotePort | Field::App | Field::CurrentApp) => 2,
        Some(Field::Protocol | Field::Direction | Field::Flags) => 0,
        _ => 1,
    };
    (0..tests.len()).filter(is_only_one).max_by_key(selectivity)
}

/// The ranks of a layer's filters.
fn ranks_of(layer: Layer, filters: &[RankedFilter<'_>]) -> Range<usize> {
    let first = filters.partition_point(|ranked| ranked.filter.layer.index() < layer.index());
    let end = filters.partition_point(|ranked| ranked.filter.layer.index() <= layer.index());
    first..end
}

fn lower_layer(
    layer: Layer,
    root: u32,
    filters: &[RankedFilter<'_>],
    tests: &[Vec<(bool, Test)>],
    ranks: Range<usize>,
) -> kernel::Layer {
    let tested_fields = tests[ranks.clone()]
        .iter()
        .flatten()
        .fold(0, |fields, (_, test)| fields | 1 << test.field);
    let prefilter = prefilter::Prefilter::of(layer.family, tests[ranks.clone()].iter());
    let acts_after_hard_permit =
        |ranked: &RankedFilter<'_>| matches!(ranked.filter.action, Action::Veto | Action::Inspect);
    kernel::Layer {
        root,
        wants: tested_fields,
        first: ranks.start as u32,
        end: ranks.end as u32,
        flags: if filters[ranks].iter().any(acts_after_hard_permit) {
            kernel::LAYER_BEYOND_HARD_PERMIT
        } else {
            0
        },
        protocols: prefilter.protocols,
        addresses: prefilter.addresses,
        ports: prefilter.ports,
    }
}

fn lower_filter(
    rank: usize,
    filters: &[RankedFilter<'_>],
    contexts: &mut ContextNumbers<'_>,
) -> Result<kernel::Filter, Error> {
    let ranked = &filters[rank];
    let context_id = match ranked.context {
        _ if ranked.service.is_none() => 0,
        RedirectContext::Fixed(bytes) if !bytes.is_empty() => {
            contexts(bytes, ranked.filter.only_user.is_some())?
        }
        RedirectContext::None | RedirectContext::Fixed(_) => 0,
        RedirectContext::Auto => kernel::CONTEXT_AUTO,
    };
    Ok(kernel::Filter {
        id: ranked.filter.id,
        sublayer_end: sublayer_end(rank, filters),
        context_id,
        service: ranked.service.unwrap_or(0),
        action: match ranked.filter.action {
            Action::Permit => kernel::ACTION_PERMIT,
            Action::Block => kernel::ACTION_BLOCK,
            Action::Veto => kernel::ACTION_VETO,
            Action::Inspect => kernel::ACTION_INSPECT,
            Action::Redirect(_) => kernel::ACTION_REDIRECT,
        },
        flags: flag(
            ranked.filter.clear_action_right,
            kernel::FILTER_CLEAR_ACTION_RIGHT,
        ) | flag(
            ranked.on_absent == Absent::Permit,
            kernel::FILTER_ABSENT_PERMIT,
        ) | flag(may_match_groups(ranked.filter), kernel::FILTER_GROUPS)
            | flag(ranked.filter.only_user.is_some(), kernel::FILTER_RESTRICTED),
        ..zerocopy::FromZeros::new_zeroed()
    })
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// The rank after the last filter of the group to which the filter `rank` belongs, at its layer: see
/// [`RankedFilter::group`].
///
/// Sublayers may be large, so the end is not searched one by one: the steps double until one is
/// beyond the end, and a binary search between the last two positions finds it.
fn sublayer_end(rank: usize, filters: &[RankedFilter<'_>]) -> u32 {
    let group = |ranked: &RankedFilter<'_>| (ranked.filter.layer.index(), ranked.group());
    let own_group = group(&filters[rank]);
    let mut step = 1;
    let mut inside = rank;
    while inside + step < filters.len() && group(&filters[inside + step]) == own_group {
        inside += step;
        step *= 2;
    }
    let end = (inside + step).min(filters.len());
    let within = filters[inside..end].partition_point(|ranked| group(ranked) == own_group);
    (inside + within) as u32
}
