//! Short forms for policies of the full filter model.

use std::net::{TcpListener, TcpStream};

use sidetrack_engine::Service;
use sidetrack_policy::{
    Action, Condition, Field, Filter, Identity, LayerKind, Lifetime, MatchType, Sublayer, Uuid,
    Value, Weight,
};

use crate::{Client, Host};

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

/// The action that redirects to a service.
pub fn redirect(host: &mut Host, service: &Service) -> Action {
    let mut services = host.engine().services();
    let (_, spec) = services
        .find(|(number, _)| *number == service.number)
        .expect("the service exists");
    Action::Redirect(spec.key)
}

/// Commits a policy that consists of these filters and sublayers.
pub fn commit(host: &mut Host, filters: &[Filter], sublayers: &[Sublayer]) {
    for filter in filters {
        filter.check().expect("the filter is valid");
    }
    let committed = host.engine().commit(filters, sublayers);
    committed.expect("the policy is valid");
}

/// Accepts a connection of a client that no filter redirects. Returns the accepted socket and the
/// client.
pub fn direct_connection(host: &Host) -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    let client = host.client(&["connect", &address.to_string()]);
    (listener.accept().expect("the client connects").0, client)
}
