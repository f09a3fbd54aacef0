//! Names: reading them from a message, and writing them as text.

use std::fmt::Write;

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use super::{MalformedDns, POINTERS_MAX};

/// Reads the name at the decoder's position in `message`.
pub(super) fn read(message: &[u8], decoder: &mut BinDecoder<'_>) -> Result<Name, MalformedDns> {
    if pointers(message, decoder.index()) > POINTERS_MAX {
        return Err(MalformedDns::Name);
    }
    Name::read(decoder).map_err(|error| match error {
        DecodeError::InsufficientBytes => MalformedDns::Truncated,
        _ => MalformedDns::Name,
    })
}

/// The number of compression pointers through which the name at offset `place` leads, as far as the
/// message goes. Counting stops after as many steps as no valid name has.
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

/// The largest number of labels in a name: each has at least 2 bytes, and a name has at most 255.
const LABELS_MAX: usize = 127;

/// Writes a name as [`DnsQuestion::name`](super::DnsQuestion::name) describes.
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
        // A dot is not written as `\.`, since a rule on subdomains would take that for the end of a
        // label.
        0x21..=0x7e if byte != b'.' && byte != b'\\' => text.push(char::from(byte)),
        _ => write!(text, "\\{byte:03}").expect("writing to a String does not fail"),
    }
}
