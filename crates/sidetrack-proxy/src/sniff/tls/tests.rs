//! Tests with ClientHellos that rustls makes.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, version::TLS12};

use super::*;
use crate::sniff::sniff;

fn hello(config: ClientConfig, name: &str) -> Vec<u8> {
    let mut client =
        ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn modern() -> ClientConfig {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn modern_seen() -> Sniffed {
    Sniffed::Seen(Seen::Tls {
        sni: Some("example.com".into()),
        alpn: vec!["h2".into(), "http/1.1".into()],
        versions: vec!["1.3".into(), "1.2".into()],
    })
}

/// The same handshake message in records of `size` bytes.
fn fragmented(bytes: &[u8], size: usize) -> Vec<u8> {
    bytes[RECORD_HEADER_SIZE..]
        .chunks(size)
        .flat_map(|chunk| {
            let length = (chunk.len() as u16).to_be_bytes();
            [&[22, 3, 1][..], &length, chunk].concat()
        })
        .collect()
}

#[test]
fn names_protocols_and_versions_are_read() {
    assert_eq!(sniff(&hello(modern(), "Example.com")), modern_seen());
}

#[test]
fn every_beginning_is_undecided_in_one_record_or_many() {
    let whole = hello(modern(), "example.com");
    for size in [whole.len(), 1, 2, 3, 50] {
        let bytes = fragmented(&whole, size);
        for end in 0..bytes.len() {
            assert_eq!(sniff(&bytes[..end]), Sniffed::More, "{end} of {size}");
        }
        assert_eq!(sniff(&bytes), modern_seen(), "records of {size}");
        assert_eq!(sniff(&[&bytes[..], b"more"].concat()), modern_seen());
    }
}

#[test]
fn a_hello_without_name_and_versions_is_read() {
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = false;
    let Sniffed::Seen(Seen::Tls {
        sni,
        alpn,
        versions,
    }) = sniff(&hello(config, "a.example"))
    else {
        panic!("not seen as TLS");
    };
    assert_eq!((sni, alpn, versions), (None, vec![], vec!["1.2".into()]));
}

#[test]
fn grease_is_skipped_and_unknown_versions_are_numbers() {
    let extension = [0, 43, 0, 7, 6, 0x1a, 0x1a, 0x7f, 0x12, 3, 4];
    let mut body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0, 0, 11],
        &extension,
    ]
    .concat();
    body.splice(..0, [1, 0, 0, body.len() as u8]);
    let record = [&[22, 3, 1, 0, body.len() as u8][..], &body].concat();
    let Sniffed::Seen(Seen::Tls { versions, .. }) = sniff(&record) else {
        panic!("not seen as TLS");
    };
    assert_eq!(versions, ["0x7f12", "1.3"]);
}

#[test]
fn bytes_that_only_begin_like_tls_are_raw() {
    for bytes in [
        &[22, 2][..],
        &[22, 3, 9],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0xff, 0xff],
        &[22, 3, 1, 0, 9, 2],             // a ServerHello
        &[22, 3, 1, 0, 9, 1, 2, 0, 0],    // a ClientHello of 128 KiB
        &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], // a ClientHello of 1 byte
        &[22, 3, 1, 0, 1, 1, 23],         // application data within the ClientHello
    ] {
        assert_eq!(sniff(bytes), RAW, "{bytes:?}");
    }
}

#[test]
fn damaged_hellos_do_not_panic() {
    let whole = hello(modern(), "example.com");
    for index in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[index] = value;
            sniff(&bytes);
        }
    }
}
