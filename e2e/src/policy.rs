//! Short forms for policies of the full filter model.

use ipnet::IpNet;
use sidetrack_engine::RegisteredService;
use sidetrack_policy::redirect::Redirect;
use sidetrack_policy::{
    Action, Condition, Field, Filter, Identity, LayerKind, Lifetime, MatchType, Sublayer, Uuid,
    Value, Weight,
};

/// A filter at the IPv4 and the IPv6 layer of this kind. Its id is also its weight.
pub fn both_families(
    kind: LayerKind,
    id: u64,
    action: Action,
    conditions: &[Condition],
) -> [Filter; 2] {
    kind.both().map(|layer| Filter {
        id,
        conditions: conditions.to_vec(),
        weight: Weight::Literal(id),
        ..Filter::new("case", layer, action)
    })
}

/// A static sublayer with this number as its key.
pub fn sublayer(key: u128, weight: u16) -> Sublayer {
    Sublayer {
        identity: Identity {
            key: Uuid::from_u128(key),
            name: "sublayer".to_owned(),
            description: String::new(),
        },
        lifetime: Lifetime::Static,
        provider: None,
        weight,
    }
}

/// A condition on the field flags.
pub fn flags_of(match_type: MatchType, bits: u64) -> Condition {
    Condition {
        field: Field::Flags,
        match_type,
        value: Value::Uint(bits),
    }
}

/// A condition that the remote port equals this number.
pub fn port(number: u64) -> Condition {
    Condition::equal(Field::RemotePort, Value::Uint(number))
}

/// Redirects all TCP connections to a service. Flows show the service's number as the filter's id.
pub fn redirect_tcp(service: &RegisteredService) -> Redirect {
    Redirect::tcp(service.key).id(service.number.into())
}

/// The same for all UDP datagrams.
pub fn redirect_udp(service: &RegisteredService) -> Redirect {
    Redirect::udp(service.key).id(service.number.into())
}

/// Parses an address prefix, such as `10.0.0.0/8`.
pub fn prefix(text: &str) -> IpNet {
    text.parse().expect("an address prefix")
}
