//! A simple form of a policy: a list of filters. The first filter that matches, and whose service the
//! connection has not passed yet, redirects it.
//!
//! The full model, with layers, sublayers and verdicts, is in `sidetrack-policy`. A list is translated into
//! its objects.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use sidetrack_abi::kernel;
use sidetrack_policy::{
    self as policy, Action, Condition, Family, Field, Layer, LayerKind, MatchType, Uuid, Value,
    Weight,
};
pub use sidetrack_policy::{Absent, RedirectContext};

use crate::{Error, ServiceSpec};

/// The protocol that a filter of a list matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP connections.
    Tcp = 6,
    /// UDP datagrams.
    Udp = 17,
}

/// A filter of a list: redirects the connections that it matches to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Id that flows and events show.
    pub id: u64,
    /// The service to redirect to: [`crate::Service::number`].
    pub service: u32,
    /// Matches only this protocol.
    pub protocol: Protocol,
    /// Matches only destinations in this prefix; `None` matches all.
    pub remote: Option<IpNet>,
    /// Matches only destination ports from the first to the last, both included; `None` matches all.
    pub ports: Option<(u16, u16)>,
    /// What the filter does while its service has no listener.
    pub on_absent: Absent,
    /// The redirect context that the proxy gets.
    pub context: RedirectContext,
}

impl Filter {
    /// A filter that redirects all TCP connections to one service.
    pub fn redirect_all(service: u32) -> Self {
        Self {
            id: u64::from(service),
            service,
            protocol: Protocol::Tcp,
            remote: None,
            ports: None,
            on_absent: Absent::Block,
            context: RedirectContext::None,
        }
    }

    /// A filter that redirects all datagrams to one service.
    pub fn redirect_datagrams(service: u32) -> Self {
        Self {
            protocol: Protocol::Udp,
            ..Self::redirect_all(service)
        }
    }

    fn matches_family(&self, family: Family) -> bool {
        self.remote
            .is_none_or(|prefix| Family::of(prefix.addr()) == family)
    }

    fn to_object(&self, layer: Layer, weight: Weight, service: Uuid) -> policy::Filter {
        let protocol = Value::Uint(self.protocol as u64);
        let mut conditions = vec![Condition::equal(Field::Protocol, protocol)];
        if let Some(prefix) = self.remote {
            conditions.push(Condition::equal(
                Field::RemoteAddress,
                Value::Prefix(prefix),
            ));
        }
        if let Some((low, high)) = self.ports {
            conditions.push(Condition {
                field: Field::RemotePort,
                match_type: MatchType::Range,
                value: Value::Range(
                    Box::new(Value::Uint(low.into())),
                    Box::new(Value::Uint(high.into())),
                ),
            });
        }
        policy::Filter {
            id: self.id,
            weight,
            conditions,
            on_absent: Some(self.on_absent),
            context: Some(self.context.clone()),
            ..policy::Filter::new("run", layer, Action::Redirect(service))
        }
    }

    /// Whether the destination matches. A prefix never matches an address of the other family, not even one of
    /// length 0.
    fn matches(&self, destination: SocketAddr) -> bool {
        let address = destination.ip().to_canonical();
        let (low, high) = self.ports.unwrap_or((0, u16::MAX));
        self.remote.is_none_or(|prefix| prefix.contains(&address))
            && (low..=high).contains(&destination.port())
    }
}

/// The filter that decides: the index of the first filter that matches the destination, whose service is not
/// among those `seen`, and that is not skipped because its service is among those `absent`.
///
/// This defines what a list means; a property test compares the kernel side (`bpf/filter.h`) with it. If the
/// service of the filter is absent, the connection is refused. `None` means that it proceeds undiverted. The
/// family of the destination is that of the connection; an IPv4-mapped destination is IPv4.
pub fn reference(
    filters: &[Filter],
    destination: SocketAddr,
    seen: &[u32],
    absent: &[u32],
) -> Option<usize> {
    filters.iter().position(|filter| {
        filter.matches(destination)
            && !seen.contains(&filter.service)
            && !(filter.on_absent == Absent::Permit && absent.contains(&filter.service))
    })
}

/// Checks a list, and translates it into objects of the full model: for each filter one at each connect
/// redirect layer, all in one sublayer, the first with the highest weight.
pub(crate) fn to_objects(
    filters: &[Filter],
    services: &BTreeMap<u32, ServiceSpec>,
) -> Result<Vec<policy::Filter>, Error> {
    if filters.len() * 2 > kernel::FILTERS_MAX {
        return Err(Error::TooManyFilters(filters.len()));
    }
    for (index, filter) in filters.iter().enumerate() {
        check(index, filter, services)?;
    }
    Ok(filters
        .iter()
        .enumerate()
        .flat_map(|(index, filter)| {
            let weight = Weight::Literal((filters.len() - index) as u64);
            let service = services[&filter.service].key;
            LayerKind::ConnectRedirect
                .both()
                .into_iter()
                .filter(|layer| filter.matches_family(layer.family))
                .map(move |layer| filter.to_object(layer, weight, service))
        })
        .collect())
}

fn check(
    index: usize,
    filter: &Filter,
    services: &BTreeMap<u32, ServiceSpec>,
) -> Result<(), Error> {
    if !services.contains_key(&filter.service) {
        return Err(Error::UnknownService {
            index,
            service: filter.service,
        });
    }
    match (&filter.context, filter.ports) {
        (RedirectContext::Fixed(bytes), _) if bytes.len() > kernel::CONTEXT_SIZE_MAX => {
            Err(Error::ContextTooLong {
                index,
                length: bytes.len(),
            })
        }
        (_, Some((low, high))) if low > high => Err(Error::PortRange { index, low, high }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(filter: Filter) -> Result<Vec<policy::Filter>, Error> {
        let services = BTreeMap::from([(1, ServiceSpec::new("a"))]);
        to_objects(&[filter], &services)
    }

    #[test]
    fn prefix_makes_a_filter_of_its_family_only() {
        let with = |text: &str| Filter {
            remote: Some(text.parse().unwrap()),
            ..Filter::redirect_all(1)
        };
        for (text, family) in [
            ("10.1.2.3/8", Family::V4),
            ("0.0.0.0/0", Family::V4),
            ("::/0", Family::V6),
        ] {
            let filters = translated(with(text)).unwrap();
            assert_eq!(filters.len(), 1);
            assert_eq!(filters[0].layer.family, family);
            filters[0].check().unwrap();
        }
        assert_eq!(translated(Filter::redirect_all(1)).unwrap().len(), 2);
    }

    #[test]
    fn invalid_filters_are_refused_with_their_index() {
        let unknown = translated(Filter::redirect_all(2)).unwrap_err();
        assert!(matches!(
            unknown,
            Error::UnknownService {
                index: 0,
                service: 2
            }
        ));
        let long = translated(Filter {
            context: RedirectContext::Fixed(vec![0; 4001]),
            ..Filter::redirect_all(1)
        });
        assert!(matches!(
            long,
            Err(Error::ContextTooLong { length: 4001, .. })
        ));
        let ports = translated(Filter {
            ports: Some((2, 1)),
            ..Filter::redirect_all(1)
        });
        assert!(matches!(ports, Err(Error::PortRange { .. })));
        let many = vec![Filter::redirect_all(1); 50_001];
        let many = to_objects(&many, &BTreeMap::from([(1, ServiceSpec::new("a"))]));
        assert!(matches!(many, Err(Error::TooManyFilters(50_001))));
    }
}
