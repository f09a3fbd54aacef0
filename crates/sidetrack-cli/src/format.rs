//! Text forms of protobuf values that the daemon returns.

use sidetrack_api::{socket_address, v1};

/// Formats an address and port; `-` stands for a missing or invalid one.
pub(crate) fn endpoint_text(wire: Option<&v1::Endpoint>) -> String {
    let address = wire.and_then(|wire| socket_address(wire).ok());
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// Formats an address and port for JSON; `None`, which becomes null, stands for a missing or
/// invalid one.
pub(crate) fn endpoint_json(wire: Option<&v1::Endpoint>) -> Option<String> {
    let address = socket_address(wire?).ok();
    address.map(|address| address.to_string())
}

/// Returns the name of an IP protocol, or else its number as text. 0, which stands for an unknown
/// protocol, is empty.
pub(crate) fn protocol_name(number: u32) -> String {
    match number {
        0 => String::new(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the name of a layer; `None` if the number does not stand for one.
pub(crate) fn layer_name(number: i32) -> Option<String> {
    let wire = v1::Layer::try_from(number).ok()?;
    let layer = sidetrack_policy::Layer::try_from(wire).ok()?;
    Some(layer.to_string())
}
