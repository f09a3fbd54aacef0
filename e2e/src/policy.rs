//! Policies of the full filter model, in few words.

use std::net::{TcpListener, TcpStream};

use sidetrack_engine::Service;
use sidetrack_policy::{
    Action, Condition, Field, Filter, Identity, LayerKind, Lifetime, MatchType, Sublayer, Uuid,
    Value, Weight,
};

use crate::{Client, Host};

/// A filter at both families, whose number is its weight.
pub fn both(kind: LayerKind, id: u64, action: Action, conditions: &[Condition]) -> [Filter; 2] {
    kind.both().map(|layer| Filter {
        id,
        conditions: conditions.to_vec(),
        weight: Weight::Literal(id),
        ..Filter::new("case", layer, action)
    })
}

/// A sublayer with this number as its key.
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

/// A condition on flags.
pub fn flags_of(match_type: MatchType, bits: u64) -> Condition {
    Condition {
        field: Field::Flags,
        match_type,
        value: Value::Uint(bits),
    }
}

/// A condition on the remote port.
pub fn port(number: u64) -> Condition {
    Condition::equal(Field::RemotePort, Value::Uint(number))
}

/// The action that redirects to a service.
pub fn redirect(host: &mut Host, service: &Service) -> Action {
    let mut services = host.engine().services();
    let (_, spec) = services
        .find(|(number, _)| *number == service.number)
        .expect("it is there");
    Action::Redirect(spec.key)
}

/// Puts filters in force.
pub fn put(host: &mut Host, filters: &[Filter], sublayers: &[Sublayer]) {
    for filter in filters {
        filter.check().expect("it is a good filter");
    }
    let committed = host.engine().commit(filters, sublayers);
    committed.expect("the policy is good");
}

/// A connection that nobody diverts, accepted here.
pub fn straight(host: &Host) -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = listener.local_addr().expect("it is bound").to_string();
    let client = host.client(&["connect", &to]);
    (listener.accept().expect("the client comes").0, client)
}
