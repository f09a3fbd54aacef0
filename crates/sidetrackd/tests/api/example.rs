//! Example objects, as clients send them.

use sidetrack_api::v1;
use sidetrack_policy::Uuid;

pub(super) fn key(number: u128) -> Vec<u8> {
    Uuid::from_u128(number).as_bytes().to_vec()
}

pub(super) fn provider(number: u128) -> v1::Provider {
    v1::Provider {
        key: key(number),
        name: "vendor".into(),
        ..Default::default()
    }
}

pub(super) fn sublayer(number: u128) -> v1::Sublayer {
    v1::Sublayer {
        key: key(number),
        name: "group".into(),
        weight: 1,
        ..Default::default()
    }
}

pub(super) fn service(number: u128) -> v1::Service {
    v1::Service {
        key: key(number),
        name: format!("proxy {number}"),
        ..Default::default()
    }
}

pub(super) fn filter(number: u128) -> v1::Filter {
    v1::Filter {
        key: key(number),
        name: format!("rule {number}"),
        layer: v1::Layer::ConnectRedirectV4.into(),
        action: v1::Action::Permit.into(),
        ..Default::default()
    }
}

pub(super) fn condition(
    field: v1::Field,
    match_type: i32,
    value: v1::value::Kind,
) -> v1::Condition {
    v1::Condition {
        field: field.into(),
        match_type,
        value: Some(v1::Value { kind: Some(value) }),
    }
}

pub(super) fn range(low: u64, high: u64) -> v1::value::Kind {
    let end = |number| {
        Some(Box::new(v1::Value {
            kind: Some(v1::value::Kind::Uint(number)),
        }))
    };
    v1::value::Kind::Range(Box::new(v1::Range {
        low: end(low),
        high: end(high),
    }))
}

/// Returns a request that applies filters.
pub(super) fn policy(filters: Vec<v1::Filter>) -> v1::ApplyPolicyRequest {
    v1::ApplyPolicyRequest {
        owner: "mine".into(),
        filters,
        ..Default::default()
    }
}
