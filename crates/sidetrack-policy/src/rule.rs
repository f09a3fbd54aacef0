//! Filters in the order in which they are judged.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::{
    Absent, Code, Context, Error, Filter, SUBLAYER_UNIVERSAL, Service, Sublayer, Uuid, Weight,
};

/// A filter, with all that its place and its action depend on. Its index among all is its rank.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    /// What it says.
    pub filter: &'a Filter,
    /// The sublayer's key.
    pub sublayer: Uuid,
    /// The sublayer's weight.
    pub sublayer_weight: u16,
    /// Its own.
    pub weight: u64,
    /// Of a redirect: the service's number.
    pub service: Option<u16>,
    /// Of a redirect.
    pub on_absent: Absent,
    /// Of a redirect.
    pub context: &'a Context,
}

/// Puts filters into their order: by layer; higher sublayers first (of equal weight, by key); higher
/// weights first (of equal weight, the older one, by id). Disabled ones are left out.
///
/// `services` gives each service with its number. Errors: FWP_E_SUBLAYER_NOT_FOUND,
/// FWP_E_CALLOUT_NOT_FOUND.
pub fn order<'a>(
    filters: impl IntoIterator<Item = &'a Filter>,
    sublayers: impl IntoIterator<Item = &'a Sublayer>,
    services: impl IntoIterator<Item = (u16, &'a Service)>,
) -> Result<Vec<Rule<'a>>, Error> {
    let mut weights: HashMap<Uuid, u16> = sublayers
        .into_iter()
        .map(|sublayer| (sublayer.identity.key, sublayer.weight))
        .collect();
    weights.entry(SUBLAYER_UNIVERSAL).or_insert(0);
    let services: HashMap<Uuid, (u16, &Service)> = services
        .into_iter()
        .map(|(number, service)| (service.identity.key, (number, service)))
        .collect();
    let mut rules = filters
        .into_iter()
        .filter(|filter| !filter.disabled)
        .map(|filter| rule(filter, &weights, &services))
        .collect::<Result<Vec<_>, _>>()?;
    rules.sort_by_key(|rule| {
        (
            rule.filter.layer.index(),
            Reverse(rule.sublayer_weight),
            rule.sublayer,
            Reverse(rule.weight),
            rule.filter.id,
        )
    });
    Ok(rules)
}

fn rule<'a>(
    filter: &'a Filter,
    weights: &HashMap<Uuid, u16>,
    services: &HashMap<Uuid, (u16, &'a Service)>,
) -> Result<Rule<'a>, Error> {
    let sublayer = if filter.sublayer.is_nil() {
        SUBLAYER_UNIVERSAL
    } else {
        filter.sublayer
    };
    let sublayer_weight = *weights.get(&sublayer).ok_or_else(|| {
        Error::new(
            Code::SublayerNotFound,
            format!(
                "filter {:?} is of sublayer {sublayer}, which is not there",
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
                    "filter {:?} redirects to service {key}, which is not there",
                    filter.identity.name
                ),
            )
        })?),
    };
    Ok(Rule {
        filter,
        sublayer,
        sublayer_weight,
        weight: Weight::effective(filter),
        service: service.map(|(number, _)| *number),
        on_absent: filter
            .on_absent
            .or(service.map(|(_, service)| service.on_absent))
            .unwrap_or_default(),
        context: filter
            .context
            .as_ref()
            .or(service.map(|(_, service)| &service.context))
            .unwrap_or(&Context::None),
    })
}
