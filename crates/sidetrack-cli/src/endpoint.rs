//! Addresses and programs as the daemon tells them.

use sidetrack_api::{socket_address, v1};

/// An address and port; `-` if there is none.
pub(crate) fn endpoint(wire: Option<&v1::Endpoint>) -> String {
    let address = wire.and_then(|wire| socket_address(wire).ok());
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// For programs: null if there is none.
pub(crate) fn endpoint_json(wire: Option<&v1::Endpoint>) -> Option<String> {
    let address = socket_address(wire?).ok();
    address.map(|address| address.to_string())
}

/// A protocol's name, or its number; nothing if it is not known.
pub(crate) fn protocol(number: u32) -> String {
    match number {
        0 => String::new(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// A layer's name; nothing if there is none.
pub(crate) fn layer(number: i32) -> Option<String> {
    let wire = v1::Layer::try_from(number).ok()?;
    let layer = sidetrack_policy::Layer::try_from(wire).ok()?;
    Some(layer.to_string())
}
