//! Constructors for a simple policy: redirects in order, of which the first decides that matches a
//! connection and whose service the connection has not passed.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::{
    Absent, Action, Condition, Family, Field, Filter, LayerKind, MatchType, RedirectContext, Uuid,
    Value, Weight,
};

/// A protocol whose connections can be redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP connections.
    Tcp = 6,
    /// UDP datagrams.
    Udp = 17,
}

/// The filters that redirect connections of one protocol to a service: one filter at the connect redirect
/// layer of each family, or of one family if the redirect names a prefix of remote addresses.
///
/// ```
/// use sidetrack_policy::redirect::{Redirect, in_order};
/// use sidetrack_policy::{Absent, Uuid};
///
/// let (web, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
/// let filters = in_order([
///     Redirect::tcp(web).remote("10.0.0.0/8".parse()?).ports(443..=443),
///     Redirect::tcp(other).on_absent(Absent::Permit),
/// ]);
/// assert_eq!(filters.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    filters: Vec<Filter>,
}

impl Redirect {
    /// Redirects all connections of a protocol to the service with this key.
    pub fn new(protocol: Protocol, service: Uuid) -> Self {
        let protocol = Condition::equal(Field::Protocol, Value::Uint(protocol as u64));
        let filters = LayerKind::ConnectRedirect.both().map(|layer| Filter {
            conditions: vec![protocol.clone()],
            ..Filter::new("redirect", layer, Action::Redirect(service))
        });
        Self {
            filters: filters.into(),
        }
    }

    /// Redirects all TCP connections.
    pub fn tcp(service: Uuid) -> Self {
        Self::new(Protocol::Tcp, service)
    }

    /// Redirects all UDP datagrams.
    pub fn udp(service: Uuid) -> Self {
        Self::new(Protocol::Udp, service)
    }

    /// Redirects only connections to an address of this prefix, which has one family.
    #[must_use]
    pub fn remote(mut self, prefix: IpNet) -> Self {
        self.filters
            .retain(|filter| filter.layer.family == Family::of(prefix.addr()));
        let remote = Condition::equal(Field::RemoteAddress, Value::Prefix(prefix));
        self.each(|filter| filter.conditions.push(remote.clone()))
    }

    /// Redirects only connections to one of these ports.
    #[must_use]
    pub fn ports(self, ports: RangeInclusive<u16>) -> Self {
        let end = |port: u16| Box::new(Value::Uint(port.into()));
        let ports = Condition {
            field: Field::RemotePort,
            match_type: MatchType::Range,
            value: Value::Range(end(*ports.start()), end(*ports.end())),
        };
        self.each(|filter| filter.conditions.push(ports.clone()))
    }

    /// Sets what happens while the service is absent, instead of what the service says.
    #[must_use]
    pub fn on_absent(self, on_absent: Absent) -> Self {
        self.each(|filter| filter.on_absent = Some(on_absent))
    }

    /// Sets the redirect context, instead of the service's own.
    #[must_use]
    pub fn context(self, context: RedirectContext) -> Self {
        self.each(|filter| filter.context = Some(context.clone()))
    }

    /// Sets the id that flows and events show.
    #[must_use]
    pub fn id(self, id: u64) -> Self {
        self.each(|filter| filter.id = id)
    }

    fn each(mut self, change: impl FnMut(&mut Filter)) -> Self {
        self.filters.iter_mut().for_each(change);
        self
    }
}

/// Returns the filters of redirects, with weights by which an earlier redirect comes before a later one: the
/// weight of the last is 1. All are in the universal sublayer.
pub fn in_order(redirects: impl IntoIterator<Item = Redirect>) -> Vec<Filter> {
    let redirects: Vec<Redirect> = redirects.into_iter().collect();
    let weights = (1..=redirects.len() as u64).rev().map(Weight::Literal);
    let weighted = redirects.into_iter().zip(weights);
    weighted
        .flat_map(|(redirect, weight)| redirect.each(|filter| filter.weight = weight).filters)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::order;
    use crate::{Code, Service};

    const SERVICE: Uuid = Uuid::from_u128(1);

    fn codes(redirect: Redirect) -> Vec<Option<Code>> {
        let checked = in_order([redirect]);
        let checked = checked.iter().map(|filter| filter.check());
        checked
            .map(|result| result.err().map(|error| error.error.code))
            .collect()
    }

    #[test]
    fn prefix_makes_a_filter_of_its_family_only() {
        for (text, family) in [
            ("10.1.2.3/8", Family::V4),
            ("0.0.0.0/0", Family::V4),
            ("::/0", Family::V6),
        ] {
            let filters = in_order([Redirect::tcp(SERVICE).remote(text.parse().unwrap())]);
            assert_eq!(filters.len(), 1);
            assert_eq!(filters[0].layer.family, family);
            filters[0].check().unwrap();
        }
        assert_eq!(codes(Redirect::tcp(SERVICE)), [None, None]);
    }

    #[test]
    fn invalid_redirects_are_refused() {
        let long = Redirect::tcp(SERVICE).context(RedirectContext::Fixed(vec![0; 4001]));
        assert_eq!(codes(long), [Some(Code::OutOfBounds); 2]);
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = Redirect::tcp(SERVICE).ports(2..=1);
        assert_eq!(codes(reversed), [Some(Code::InvalidRange); 2]);
        let filters = in_order([Redirect::tcp(SERVICE)]);
        let none: [(u16, &Service); 0] = [];
        let unknown = order(&filters, &[], none).unwrap_err();
        assert_eq!(unknown.code, Code::CalloutNotFound);
    }

    #[test]
    fn earlier_redirect_comes_first() {
        let filters = in_order([3, 1, 2].map(|id| Redirect::udp(SERVICE).id(id)));
        let mut ordered = filters.clone();
        ordered.sort_by_key(|filter| std::cmp::Reverse(filter.effective_weight()));
        assert_eq!(ordered, filters);
        let ids: Vec<_> = filters.iter().map(|filter| filter.id).collect();
        assert_eq!(ids, [3, 3, 1, 1, 2, 2]);
    }
}
