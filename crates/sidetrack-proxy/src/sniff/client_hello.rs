//! Reads the ClientHello message, which TLS sends in records and QUIC in CRYPTO frames.

use tls_parser::{
    SNIType, TlsClientHelloContents, TlsExtension, TlsVersion, parse_tls_client_hello_extension,
    parse_tls_handshake_client_hello,
};

use super::host::reported_host;

/// The number of application protocols that are reported. Further ones are left out.
pub const ALPN_ENTRIES_MAX: usize = 16;
/// The number of TLS versions that are reported. Further ones are left out.
pub const VERSIONS_MAX: usize = 16;

/// The reported parts of a ClientHello; see [`Seen::Tls`](crate::seen::Seen::Tls).
#[derive(Debug)]
pub(super) struct ClientHello {
    pub(super) sni: Option<String>,
    pub(super) alpn: Vec<String>,
    pub(super) versions: Vec<String>,
}

/// What the first bytes of a handshake are.
#[derive(Debug)]
pub(super) enum HandshakeMessage {
    /// A ClientHello; what follows it was not read.
    Hello(ClientHello),
    /// The beginning of a ClientHello.
    Incomplete,
    /// A ClientHello whose header announces more bytes than allowed.
    TooLong,
    /// Another message.
    Other,
    /// A complete ClientHello that cannot be parsed.
    Malformed,
}

/// Reads the message at the beginning of `bytes` (RFC 8446, 4). Its body may have `size_max` bytes.
pub(super) fn read(bytes: &[u8], size_max: usize) -> HandshakeMessage {
    if bytes.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return HandshakeMessage::Other;
    }
    let Some((header, rest)) = bytes.split_at_checked(HEADER_SIZE) else {
        return HandshakeMessage::Incomplete;
    };
    let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if size > size_max {
        return HandshakeMessage::TooLong;
    }
    match rest.get(..size).map(read_body) {
        Some(Some(hello)) => HandshakeMessage::Hello(hello),
        Some(None) => HandshakeMessage::Malformed,
        None => HandshakeMessage::Incomplete,
    }
}

const HEADER_SIZE: usize = 4;
const CLIENT_HELLO: u8 = 1;

fn read_body(body: &[u8]) -> Option<ClientHello> {
    let (_, hello) = parse_tls_handshake_client_hello(body).ok()?;
    let mut sni = None;
    let mut alpn = Vec::new();
    let mut versions = Vec::new();
    for extension in extensions(&hello) {
        match extension {
            TlsExtension::SNI(names) if sni.is_none() => {
                let name = names.iter().find(|(kind, _)| *kind == SNIType::HostName);
                sni = name.and_then(|(_, name)| reported_host(name));
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
        versions.extend(version(&hello.version)); // clients of TLS 1.2 and older send only the newest version
    }
    Some(ClientHello {
        sni,
        alpn,
        versions,
    })
}

/// The extensions, each parsed separately, so that one that the parser rejects does not hide
/// the others.
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

/// Whether the value is reserved for GREASE: clients send such values so that servers keep ignoring
/// unknown ones (RFC 8701).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}
