//! Names: from the wire, and as text.

use std::fmt::Write;

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use super::{MalformedDns, POINTERS_MAX};

/// Reads the name at the decoder's place in `message`.
pub(super) fn read(message: &[u8], decoder: &mut BinDecoder<'_>) -> Result<Name, MalformedDns> {
    if pointers(message, decoder.index()) > POINTERS_MAX {
        return Err(MalformedDns::Name);
    }
    Name::read(decoder).map_err(|error| match error {
        DecodeError::InsufficientBytes => MalformedDns::Truncated,
        _ => MalformedDns::Name,
    })
}

/// How many pointers the name at `place` leads through, as far as it can be told. It stops after
/// one more than allowed, and after as many labels as no name has.
fn pointers(message: &[u8], mut place: usize) -> usize {
    let mut count = 0;
    for _ in 0..LABELS_MAX + POINTERS_MAX {
        let Some(&first) = message.get(place) else {
            break;
        };
        match (first, message.get(place + 1)) {
            (0, _) => break,
            (0xc0.., Some(&low)) => {
                place = usize::from(u16::from_be_bytes([first & 0x3f, low]));
                count += 1;
            }
            _ => place += 1 + usize::from(first),
        }
    }
    count
}

/// Each has at least 2 bytes, of 255 in all.
const LABELS_MAX: usize = 127;

/// As [`DnsQuestion::name`](super::DnsQuestion::name) says.
pub(super) fn text(name: &Name) -> String {
    if name.is_root() {
        return ".".into();
    }
    let mut text = String::new();
    for (index, label) in name.iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for byte in label.to_ascii_lowercase() {
            push(&mut text, byte);
        }
    }
    text
}

fn push(text: &mut String, byte: u8) {
    match byte {
        // Not as `\.`: a rule on names below another would take it for the dot before that.
        0x21..=0x7e if byte != b'.' && byte != b'\\' => text.push(char::from(byte)),
        _ => write!(text, "\\{byte:03}").expect("a String takes all"),
    }
}
