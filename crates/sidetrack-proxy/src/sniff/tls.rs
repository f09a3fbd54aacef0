//! Reads a TLS ClientHello, which may be spread over several records.

use super::client_hello::{self, ClientHello, HandshakeMessage};
use super::{RAW, Sniffed};
use crate::seen::Seen;

/// The longest ClientHello that is read, in bytes with the record headers. A connection with a
/// longer one is raw.
pub const HELLO_SIZE_MAX: usize = 64 * 1024;

/// The record type of handshakes: the first byte of a TLS connection.
pub(super) const HANDSHAKE: u8 = 22;

/// Decides whether the bytes begin with a ClientHello, as far as they were received.
pub(super) fn sniff(bytes: &[u8]) -> Sniffed {
    let bytes = &bytes[..bytes.len().min(HELLO_SIZE_MAX)];
    match reassemble(bytes) {
        Reassembled::Hello(hello) => Sniffed::Seen(hello.into()),
        Reassembled::Incomplete if bytes.len() < HELLO_SIZE_MAX => Sniffed::More,
        Reassembled::Incomplete | Reassembled::Other => RAW,
    }
}

const RECORD_HEADER_SIZE: usize = 5;
const RECORD_SIZE_MAX: usize = 16 * 1024;

/// What the records contain so far.
enum Reassembled {
    Hello(ClientHello),
    Incomplete,
    Other,
}

/// Joins the contents of the records until the handshake message is complete.
fn reassemble(bytes: &[u8]) -> Reassembled {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if !may_be_record(rest) {
            return Reassembled::Other;
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER_SIZE) else {
            return Reassembled::Incomplete;
        };
        let size = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (fragment, after) = after.split_at(size.min(after.len()));
        message.extend_from_slice(fragment);
        match client_hello::read(&message, HELLO_SIZE_MAX) {
            HandshakeMessage::Hello(hello) => return Reassembled::Hello(hello),
            HandshakeMessage::Incomplete => {}
            HandshakeMessage::TooLong | HandshakeMessage::Other | HandshakeMessage::Malformed => {
                return Reassembled::Other;
            }
        }
        if fragment.len() < size {
            return Reassembled::Incomplete;
        }
        rest = after;
    }
}

/// Whether the bytes may begin a handshake record, as far as its header was received.
fn may_be_record(bytes: &[u8]) -> bool {
    let size = match bytes {
        [_, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 1,
    };
    bytes.first().is_none_or(|&kind| kind == HANDSHAKE)
        && bytes.get(1).is_none_or(|&major| major == 3)
        && bytes.get(2).is_none_or(|&minor| minor <= 4)
        && (1..=RECORD_SIZE_MAX).contains(&size)
}

impl From<ClientHello> for Seen {
    fn from(hello: ClientHello) -> Self {
        Self::Tls {
            sni: hello.sni,
            alpn: hello.alpn,
            versions: hello.versions,
        }
    }
}

#[cfg(test)]
mod tests;
