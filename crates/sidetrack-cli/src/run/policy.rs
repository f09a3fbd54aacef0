//! What the kernel judges a run's connections by.

use sidetrack_engine::filter::Protocol;
use sidetrack_engine::{Absent, Context, Filter};
use sidetrack_policy::{self as policy, Action, Condition, Field, LayerKind, Value};

use super::proxies::Taker;
use crate::args::{OnAbsent, Quic};

/// The port of HTTP/3, as good as all of QUIC.
const QUIC_PORT: u64 = 443;
/// Shown in events; services' filters have their services' numbers.
const QUIC_FILTER: u64 = 1 << 32;

/// Each proxy in turn, where it has not yet seen a connection.
pub(super) fn filters(takers: &[Taker<'_>], on_absent: OnAbsent) -> Vec<Filter> {
    takers
        .iter()
        .map(|taker| Filter {
            protocol: taker.protocol,
            on_absent: match on_absent {
                OnAbsent::Block if !taker.is_deaf => Absent::Block,
                _ => Absent::Permit,
            },
            context: Context::Auto, // proxies written for Windows ask for it
            ..Filter::redirect_all(taker.service.number)
        })
        .collect()
}

/// What fails at once. A proxy cannot do that to datagrams: it can only drop them.
pub(super) fn blocks(quic: Quic) -> Vec<policy::Filter> {
    if quic == Quic::Allow {
        return Vec::new();
    }
    LayerKind::AuthConnect
        .both()
        .into_iter()
        .map(|layer| policy::Filter {
            id: QUIC_FILTER,
            conditions: vec![
                Condition::equal(Field::Protocol, Value::Uint(Protocol::Udp as u64)),
                Condition::equal(Field::RemotePort, Value::Uint(QUIC_PORT)),
            ],
            ..policy::Filter::new("quic", layer, Action::Block)
        })
        .collect()
}
