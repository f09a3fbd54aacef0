//! The ClientHello, which may come in several TLS records.

use tls_parser::{
    SNIType, TlsClientHelloContents, TlsExtension, TlsVersion, parse_tls_client_hello_extension,
    parse_tls_handshake_client_hello,
};

use super::{RAW, Seen, Sniffed, host};

/// The longest ClientHello that is read, in bytes on the wire; a longer one is raw.
pub const HELLO_SIZE_MAX: usize = 64 * 1024;
/// The application protocols that are reported; the rest is left out.
pub const ALPN_ENTRIES_MAX: usize = 16;
/// The versions that are reported; the rest is left out.
pub const VERSIONS_MAX: usize = 16;

/// The record type of handshakes, a TLS connection's first byte.
pub(super) const HANDSHAKE: u8 = 22;

pub(super) fn sniff(bytes: &[u8]) -> Sniffed {
    let bytes = &bytes[..bytes.len().min(HELLO_SIZE_MAX)];
    match gather(bytes) {
        Gathered::Hello(body) => read_hello(&body).map_or(RAW, Sniffed::Seen),
        Gathered::Part if bytes.len() < HELLO_SIZE_MAX => Sniffed::More,
        Gathered::Part | Gathered::Other => RAW,
    }
}

const RECORD_HEADER_SIZE: usize = 5;
const RECORD_SIZE_MAX: usize = 16 * 1024;
const MESSAGE_HEADER_SIZE: usize = 4;
const CLIENT_HELLO: u8 = 1;

enum Gathered {
    /// The whole message's body.
    Hello(Vec<u8>),
    Part,
    Other,
}

/// Joins the records' contents until the handshake message is whole.
fn gather(bytes: &[u8]) -> Gathered {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if !may_be_record(rest) {
            return Gathered::Other;
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER_SIZE) else {
            return Gathered::Part;
        };
        let size = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (fragment, after) = after.split_at(size.min(after.len()));
        message.extend_from_slice(fragment);
        if let Some(gathered) = message_state(&message) {
            return gathered;
        }
        if fragment.len() < size {
            return Gathered::Part;
        }
        rest = after;
    }
}

/// Judges as much of a record's header as has come.
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

/// `None` while the message is neither whole nor out of the question.
fn message_state(message: &[u8]) -> Option<Gathered> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Some(Gathered::Other);
    }
    let (header, body) = message.split_at_checked(MESSAGE_HEADER_SIZE)?;
    let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if size > HELLO_SIZE_MAX {
        return Some(Gathered::Other);
    }
    body.get(..size).map(|body| Gathered::Hello(body.to_vec()))
}

fn read_hello(body: &[u8]) -> Option<Seen> {
    let (_, hello) = parse_tls_handshake_client_hello(body).ok()?;
    let mut sni = None;
    let mut alpn = Vec::new();
    let mut versions = Vec::new();
    for extension in extensions(&hello) {
        match extension {
            TlsExtension::SNI(names) if sni.is_none() => {
                let name = names.iter().find(|(kind, _)| *kind == SNIType::HostName);
                sni = name.and_then(|(_, name)| host(name));
            }
            TlsExtension::ALPN(offered) if alpn.is_empty() => alpn = protocols(&offered),
            TlsExtension::SupportedVersions(offered) if versions.is_empty() => {
                versions = offered
                    .iter()
                    .filter_map(version)
                    .take(VERSIONS_MAX)
                    .collect();
            }
            _ => {}
        }
    }
    if versions.is_empty() {
        versions.extend(version(&hello.version)); // TLS 1.2 and before name only their newest
    }
    Some(Seen::Tls {
        sni,
        alpn,
        versions,
    })
}

/// Reads each by itself, so that one the parser does not understand hides none of the others.
fn extensions<'a>(hello: &TlsClientHelloContents<'a>) -> impl Iterator<Item = TlsExtension<'a>> {
    let mut rest = hello.ext.unwrap_or_default();
    let slices = std::iter::from_fn(move || {
        let size = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let (extension, after) = rest.split_at_checked(4 + size)?;
        rest = after;
        Some(extension)
    });
    slices.filter_map(|extension| Some(parse_tls_client_hello_extension(extension).ok()?.1))
}

fn protocols(offered: &[&[u8]]) -> Vec<String> {
    offered
        .iter()
        .filter(|name| !matches!(name, [high, low] if is_grease(u16::from_be_bytes([*high, *low]))))
        .take(ALPN_ENTRIES_MAX)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

fn version(version: &TlsVersion) -> Option<String> {
    match version.0 {
        0x0300 => Some("ssl3".into()),
        0x0301 => Some("1.0".into()),
        0x0302 => Some("1.1".into()),
        0x0303 => Some("1.2".into()),
        0x0304 => Some("1.3".into()),
        grease if is_grease(grease) => None,
        other => Some(format!("0x{other:04x}")),
    }
}

/// Values that clients throw in so that servers keep ignoring what they do not know (RFC 8701).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

#[cfg(test)]
mod tests;
