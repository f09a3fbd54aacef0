//! Recognises the protocol of a connection by the client's first bytes: TLS with its server name,
//! HTTP with its host, or neither.
//!
//! All are pure functions of untrusted bytes. Only the beginning of a connection is read: a second
//! request on the same connection, HTTP/2 without TLS, and an encrypted ClientHello are not seen.

use crate::seen::Seen;

mod client_hello;
mod host;
mod http;
pub mod quic;
mod tls;

pub use client_hello::{ALPN_ENTRIES_MAX, VERSIONS_MAX};
pub use host::HOST_SIZE_MAX;
pub use http::{HEAD_SIZE_MAX, HEADERS_MAX, METHOD_SIZE_MAX, PATH_SIZE_MAX};
pub use tls::HELLO_SIZE_MAX;

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

// Here and not in `seen`, which reads no bytes.
impl Seen {
    /// What the client began with, if it will send no more than these bytes.
    pub fn at_end(bytes: &[u8]) -> Self {
        match sniff(bytes) {
            Sniffed::Seen(seen) => seen,
            Sniffed::More if bytes.is_empty() => Self::Silent,
            Sniffed::More => Self::Raw,
        }
    }
}

const RAW: Sniffed = Sniffed::Seen(Seen::Raw);

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
}
