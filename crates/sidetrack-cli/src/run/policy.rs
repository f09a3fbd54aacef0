//! The policy of a run: the filters by which the kernel classifies its connections.

use sidetrack_policy::redirect::{Protocol, Redirect, in_order};
use sidetrack_policy::{
    Absent, Action, Condition, Field, Filter, LayerKind, RedirectContext, Value,
};

use super::proxies::Route;
use crate::args::{OnAbsentArg, QuicArg};

/// The UDP port of HTTP/3, which nearly all QUIC traffic uses.
const QUIC_PORT: u64 = 443;
/// Id of the filters that block QUIC, as events show it. The ids of redirect filters are the
/// numbers of their services.
const QUIC_FILTER: u64 = 1 << 32;

/// Returns the redirect filters of the chain: each redirects to one proxy the connections that it
/// has not seen yet.
pub(super) fn redirects(routes: &[Route<'_>], on_absent: OnAbsentArg) -> Vec<Filter> {
    in_order(routes.iter().map(|route| {
        let on_absent = match on_absent {
            OnAbsentArg::Block if !route.is_unsupported => Absent::Block,
            _ => Absent::Permit,
        };
        Redirect::new(route.protocol, route.service.key)
            .id(route.service.number.into())
            .on_absent(on_absent)
            .context(RedirectContext::Auto) // proxies written for Windows read it
    }))
}

/// Returns the filters that block QUIC, so that sending fails at once. A proxy could only drop the
/// datagrams.
pub(super) fn blocks(quic: QuicArg) -> Vec<Filter> {
    if quic == QuicArg::Allow {
        return Vec::new();
    }
    LayerKind::AuthConnect
        .both()
        .into_iter()
        .map(|layer| Filter {
            id: QUIC_FILTER,
            conditions: vec![
                Condition::equal(Field::Protocol, Value::Uint(Protocol::Udp as u64)),
                Condition::equal(Field::RemotePort, Value::Uint(QUIC_PORT)),
            ],
            ..Filter::new("quic", layer, Action::Block)
        })
        .collect()
}
