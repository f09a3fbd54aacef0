//! Filters in their order of evaluation.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::{
    Absent, Code, Error, Filter, RedirectContext, SUBLAYER_UNIVERSAL, Service, Sublayer, Uuid,
};

/// A filter with everything that its position and its action depend on.
///
/// [`order`] returns these in their order of evaluation; the index in that list is the filter's rank.
#[derive(Clone, Debug)]
pub struct RankedFilter<'a> {
    /// The filter.
    pub filter: &'a Filter,
    /// Key of its sublayer; never nil.
    pub sublayer: Uuid,
    /// Weight of its sublayer.
    pub sublayer_weight: u16,
    /// Weight of the filter within its sublayer: see [`Filter::effective_weight`].
    pub weight: u64,
    /// Number of the service to which it redirects; none if it does not redirect.
    pub service: Option<u16>,
    /// What happens while that service is absent: the filter's setting, or else the service's.
    pub on_absent: Absent,
    /// Redirect context that it gives: the filter's setting, or else the service's.
    pub context: &'a RedirectContext,
}

impl RankedFilter<'_> {
    /// The group that contributes one verdict: the filters of a sublayer, and separately those of
    /// them that are restricted to one user. So no filter of a user ends the evaluation of others.
    pub(crate) fn group(&self) -> (bool, Uuid) {
        (self.filter.only_user.is_some(), self.sublayer)
    }
}

/// Sorts filters into their order of evaluation (docs/wfp.md, 4.6 and 4.7). Disabled filters are
/// left out.
///
/// The order is: by layer; then those that are restricted to one user come after all others; then
/// by sublayer, the one of higher weight first (of equal weight, the one with the lower key); then by
/// weight, the higher first (of equal weight, the one with the lower id, which is the older filter).
///
/// `services` yields each service with its number. Errors: FWP_E_SUBLAYER_NOT_FOUND and
/// FWP_E_CALLOUT_NOT_FOUND, if a filter refers to an object that is not given.
pub fn order<'a>(
    filters: impl IntoIterator<Item = &'a Filter>,
    sublayers: impl IntoIterator<Item = &'a Sublayer>,
    services: impl IntoIterator<Item = (u16, &'a Service)>,
) -> Result<Vec<RankedFilter<'a>>, Error> {
    let mut weights: HashMap<Uuid, u16> = sublayers
        .into_iter()
        .map(|sublayer| (sublayer.identity.key, sublayer.weight))
        .collect();
    weights.entry(SUBLAYER_UNIVERSAL).or_insert(0);
    let services: HashMap<Uuid, (u16, &Service)> = services
        .into_iter()
        .map(|(number, service)| (service.identity.key, (number, service)))
        .collect();
    let mut ranked = filters
        .into_iter()
        .filter(|filter| !filter.disabled)
        .map(|filter| resolve(filter, &weights, &services))
        .collect::<Result<Vec<_>, _>>()?;
    ranked.sort_by_key(|each| {
        (
            each.filter.layer.index(),
            each.filter.only_user.is_some(),
            Reverse(each.sublayer_weight),
            each.sublayer,
            Reverse(each.weight),
            each.filter.id,
        )
    });
    Ok(ranked)
}

/// Finds what a filter refers to.
fn resolve<'a>(
    filter: &'a Filter,
    weights: &HashMap<Uuid, u16>,
    services: &HashMap<Uuid, (u16, &'a Service)>,
) -> Result<RankedFilter<'a>, Error> {
    let sublayer = if filter.sublayer.is_nil() {
        SUBLAYER_UNIVERSAL
    } else {
        filter.sublayer
    };
    let sublayer_weight = *weights.get(&sublayer).ok_or_else(|| {
        Error::new(
            Code::SublayerNotFound,
            format!(
                "filter {:?} belongs to the sublayer with the key {sublayer}, which does not exist; \
                 add the sublayer first",
                filter.identity.name
            ),
        )
    })?;
    let service = match filter.action.service() {
        None => None,
        Some(key) => Some(services.get(&key).ok_or_else(|| {
            Error::new(
                Code::CalloutNotFound,
                format!(
                    "filter {:?} redirects to the service with the key {key}, which does not exist; \
                     add the service first",
                    filter.identity.name
                ),
            )
        })?),
    };
    Ok(RankedFilter {
        filter,
        sublayer,
        sublayer_weight,
        weight: filter.effective_weight(),
        service: service.map(|(number, _)| *number),
        on_absent: filter
            .on_absent
            .or(service.map(|(_, service)| service.on_absent))
            .unwrap_or_default(),
        context: filter
            .context
            .as_ref()
            .or(service.map(|(_, service)| &service.context))
            .unwrap_or(&RedirectContext::None),
    })
}
