//! Recognises the protocol of a connection by the client's first bytes: TLS with its server name,
//! HTTP with its host, or neither.
//!
//! All are pure functions of untrusted bytes. Only the beginning of a connection is read: a second
//! request on the same connection, HTTP/2 without TLS, and an encrypted ClientHello are not seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::datagrams::QueryLine;

mod http;
pub mod quic;
mod tls;

pub use http::{HEAD_SIZE_MAX, HEADERS_MAX, METHOD_SIZE_MAX, PATH_SIZE_MAX};
pub use tls::{ALPN_ENTRIES_MAX, HELLO_SIZE_MAX, VERSIONS_MAX};

/// The longest host name that is reported, in bytes; DNS has no longer ones. A longer one is left
/// out, since a part of it could match the wrong rules.
pub const HOST_SIZE_MAX: usize = 255;
/// The number of bytes after which [`sniff`] has always decided: the larger limit of its two
/// protocols.
pub const SNIFF_SIZE_MAX: usize = if HELLO_SIZE_MAX > HEAD_SIZE_MAX {
    HELLO_SIZE_MAX
} else {
    HEAD_SIZE_MAX
};

/// The result of [`sniff`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Undecided: more bytes are needed, [`SNIFF_SIZE_MAX`] in total at most.
    More,
    /// Decided: further bytes do not change it.
    Seen(Seen),
}

/// What the client began with. The texts come from the client and may contain any character.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Seen {
    /// A TLS ClientHello.
    Tls {
        /// The server's name, in lower case; absent if the client sent none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// The application protocols offered, such as "h2", in the client's order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// The versions offered, such as "1.3", in the client's order.
        versions: Vec<String>,
    },
    /// An HTTP/1 request.
    Http {
        /// The requested host, in lower case and without the port; absent if the client named none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The request's method, such as "GET".
        method: String,
        /// The request's target as sent, cut after 2,048 bytes.
        path: String,
    },
    /// DNS in datagrams.
    Dns {
        /// The questions of the first queries, 16 at most, each with its answer.
        queries: Vec<QueryLine>,
        /// The number of further questions.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
    /// QUIC.
    Quic {
        /// The server's name, in lower case; absent if the client sent none, or if it was not read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// The application protocols offered, such as "h3", in the client's order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// The version of QUIC, "1" or "2"; absent if it was not read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// Anything else.
    Raw,
    /// The client sent nothing.
    Silent,
}

/// Recognises the protocol by the first bytes of a connection, as far as they were received.
///
/// Does not panic. Once the result is [`Sniffed::Seen`], further bytes do not change it.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes.first() {
        None => Sniffed::More,
        Some(&tls::HANDSHAKE) => tls::sniff(bytes),
        Some(_) => http::sniff(bytes),
    }
}

impl Seen {
    /// What the client began with, if it will send no more than these bytes.
    pub fn at_end(bytes: &[u8]) -> Self {
        match sniff(bytes) {
            Sniffed::Seen(seen) => seen,
            Sniffed::More if bytes.is_empty() => Self::Silent,
            Sniffed::More => Self::Raw,
        }
    }

    /// The host that the client named in TLS, QUIC or HTTP.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tls { sni: host, .. } | Self::Quic { sni: host, .. } => host.as_deref(),
            Self::Http { host, .. } => host.as_deref(),
            Self::Dns { .. } | Self::Raw | Self::Silent => None,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

const RAW: Sniffed = Sniffed::Seen(Seen::Raw);

/// A host name as it is reported: in lower case; `None` if it is empty or too long.
fn host(name: &[u8]) -> Option<String> {
    if name.is_empty() || name.len() > HOST_SIZE_MAX {
        return None;
    }
    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that get further into the parsers than random ones.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            Just(b"\x16\x03\x01".to_vec()),
            Just(b"\x01\x00\x00".to_vec()),
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"CONNECT a:1 HTTP/1.1\r\n".to_vec()),
            Just(b"Host: ".to_vec()),
            Just(b"\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_input_panics_or_changes_a_decision(bytes in hostile(), cut in 0..500usize) {
            let whole = sniff(&bytes);
            let beginning = sniff(&bytes[..cut.min(bytes.len())]);
            if beginning != Sniffed::More {
                prop_assert_eq!(beginning, whole);
            }
        }

        #[test]
        fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            sniff(&bytes);
        }
    }

    #[test]
    fn every_input_is_decided_at_the_limit() {
        for beginning in [
            &b"\x16\x03\x01\x40\x00\x01\x00\xff\xf0"[..],
            b"GET / HTTP/1.1\r\nA: ",
            b"A",
            b"\r\n",
        ] {
            let mut bytes = beginning.to_vec();
            bytes.resize(SNIFF_SIZE_MAX, b'\n');
            assert_ne!(sniff(&bytes), Sniffed::More);
        }
    }

    #[test]
    fn the_end_of_the_stream_decides() {
        assert_eq!(Seen::at_end(b""), Seen::Silent);
        assert_eq!(Seen::at_end(b"GET / HT"), Seen::Raw);
        assert_eq!(sniff(b"GET / HT"), Sniffed::More);
    }

    #[test]
    fn absent_fields_are_skipped() {
        let json = |seen| serde_json::to_string(&seen).unwrap();
        assert_eq!(json(Seen::Silent), r#"{"kind":"silent"}"#);
        let seen = Seen::Http {
            host: None,
            method: "GET".into(),
            path: "/".into(),
        };
        assert_eq!(json(seen), r#"{"kind":"http","method":"GET","path":"/"}"#);
    }
}
