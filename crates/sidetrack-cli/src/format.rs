//! Text forms of values: of the protobuf ones that the daemon returns, and JSON.

use std::fmt::Write;

use serde::Serialize;
use sidetrack_abi::text::is_printable;
use sidetrack_api::{socket_address, v1};

/// Returns a value as one line of JSON, without the end of the line.
///
/// Characters that act on a terminal are written as `\uXXXX`, for people look at JSON as well:
/// serde_json does so only for those that JSON forbids.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(escape_json)
}

/// The same as indented lines.
pub(crate) fn json_lines(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(escape_json)
}

/// Escapes the characters of JSON's strings. Outside of strings, it has only ends of lines.
fn escape_json(json: String) -> String {
    let stays = |character: char| is_printable(character) || character == '\n';
    if json.chars().all(stays) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if stays(character) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}"); // writing to a String cannot fail
        }
    }
    escaped
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_printable_and_means_the_same() {
        let text = "a\u{202e}\u{7f}\u{9b}\n\"é\u{e0041}";
        let line = json_line(&[text]).unwrap();
        assert_eq!(line, r#"["a\u202e\u007f\u009b\n\"é\udb40\udc41"]"#);
        let lines = json_lines(&[text]).unwrap();
        assert_eq!(lines.lines().count(), 3);
        for json in [line, lines] {
            let read: [String; 1] = serde_json::from_str(&json).unwrap();
            assert_eq!(read, [text]);
        }
    }
}
