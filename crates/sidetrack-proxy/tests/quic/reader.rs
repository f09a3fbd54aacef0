//! Tests with what clients may send: ClientHellos in several frames, several connections, other
//! packets.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use sidetrack_proxy::sniff::quic::*;

use crate::seal::{Sealer, V1, V2, crypto};

/// The handshake message with the ClientHello that rustls makes for TLS.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record.split_off(5)
}

/// The reading of a ClientHello for this name.
pub(crate) fn read(name: &str) -> Reading {
    read_in(Version::V1, name)
}

fn read_in(version: Version, name: &str) -> Reading {
    Reading::Hello(Hello {
        sni: Some(name.into()),
        alpn: vec!["h3".into()],
        version,
    })
}

pub(crate) const ID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

#[test]
fn frames_of_all_types_are_read_in_any_order() {
    let hello = hello("a.example");
    let (begin, end) = hello.split_at(100);
    let (middle, end) = end.split_at(1);
    let frames = [
        &crypto(101, end)[..],
        &[1, 0, 0, 0],
        &crypto(0, begin),
        &[2, 0, 0, 0, 0],
        &crypto(100, middle),
        &crypto(99, &hello[99..120]),
    ];
    let client = Sealer::new(V1, ID);
    let datagram = client.datagram(0, &frames.concat());
    assert_eq!(InitialReader::new().datagram(&datagram), read("a.example"));
}

#[test]
fn a_hello_in_several_packets_and_datagrams_is_read() {
    for (number, version) in [(V1, Version::V1), (V2, Version::V2)] {
        let hello = hello("a.example");
        let client = Sealer::new(number, ID);
        let piece = |begin, end| crypto(begin, &hello[begin..end]);
        let first = [
            client.seal(7, &piece(150, 200)),
            client.datagram(8, &piece(0, 50)),
        ];
        let last = client.datagram(9, &piece(50, 150));

        let mut reader = InitialReader::new();
        assert_eq!(reader.datagram(&first.concat()), Reading::NeedMore);
        assert_eq!(reader.datagram(&last), Reading::NeedMore);
        let rest = client.datagram(10, &piece(200, hello.len()));
        let wanted = read_in(version, "a.example");
        assert_eq!(reader.datagram(&rest), wanted);
        assert_eq!(reader.datagram(&last), wanted); // repeated: the reading stays the same
    }
}

#[test]
fn short_numbers_tokens_and_padding_after_the_packet_are_read() {
    let hello = hello("a.example");
    for number_size in 1..=4 {
        let mut client = Sealer::new(V1, b"");
        client.number_size = number_size;
        client.token = vec![7; 50];
        let mut reader = InitialReader::new();
        let first = client.datagram(200, &crypto(0, &hello[..90]));
        assert_eq!(reader.datagram(&first), Reading::NeedMore);
        // 300 does not fit into one byte, but is close enough to 200 to be completed.
        let mut last = client.seal(300, &crypto(90, &hello[90..]));
        last.resize(1400, 0);
        assert_eq!(reader.datagram(&last), read("a.example"));
    }
}

#[test]
fn a_client_that_uses_the_servers_connection_id_is_read() {
    let hello = hello("a.example");
    let mut client = Sealer::new(V1, ID);
    let mut reader = InitialReader::new();
    let first = client.datagram(0, &crypto(0, &hello[..90]));
    assert_eq!(reader.datagram(&first), Reading::NeedMore);
    client.new_destination = Some(b"server".to_vec());
    let last = client.datagram(1, &crypto(90, &hello[90..]));
    assert_eq!(reader.datagram(&last), read("a.example"));
    assert_eq!(
        InitialReader::new().datagram(&last),
        Reading::Malformed(QuicError::Undecryptable)
    );
}

/// The keys of the other version are derived from the same connection ID (RFC 9369, 4.1).
#[test]
fn a_client_whose_server_chooses_the_other_version_is_read() {
    for (first, other, version) in [(V1, V2, Version::V1), (V2, V1, Version::V2)] {
        let hello = hello("a.example");
        let mut reader = InitialReader::new();
        let whole = Sealer::new(first, ID).datagram(0, &crypto(0, &hello));
        let wanted = read_in(version, "a.example");
        assert_eq!(reader.datagram(&whole), wanted);
        let mut client = Sealer::new(other, ID);
        client.new_destination = Some(b"server".to_vec());
        let acknowledges = client.datagram(1, &[2, 0, 0, 0, 0]);
        assert_eq!(reader.datagram(&acknowledges), wanted);
        let contradicts = client.datagram(0, &crypto(0, &[1, 2]));
        let conflict = Reading::Malformed(QuicError::Conflict);
        assert_eq!(reader.datagram(&contradicts), conflict);
    }
}

#[test]
fn a_retry_begins_another_connection() {
    let hello = hello("a.example");
    let mut reader = InitialReader::new();
    let first = Sealer::new(V1, ID).datagram(0, &crypto(0, &hello));
    assert_eq!(reader.datagram(&first), read("a.example"));
    let mut client = Sealer::new(V1, b"from retry");
    client.token = b"token".to_vec();
    let half = client.datagram(1, &crypto(0, &hello[..50]));
    assert_eq!(reader.datagram(&half), Reading::NeedMore);
    let rest = client.datagram(2, &crypto(50, &hello[50..]));
    assert_eq!(reader.datagram(&rest), read("a.example"));
}

#[test]
fn interleaved_connections_are_read() {
    let names = ["a.example", "b.example", "c.example", "d.example"];
    let clients = names.map(|name| (Sealer::new(V1, name.as_bytes()), hello(name), name));
    let mut reader = InitialReader::new();
    for (client, hello, _) in &clients {
        let first = client.datagram(0, &crypto(0, &hello[..50]));
        assert_eq!(reader.datagram(&first), Reading::NeedMore);
    }
    let fifth = Sealer::new(V1, b"fifth").datagram(0, &crypto(0, &hello("e.example")));
    let too_many = Reading::Malformed(QuicError::TooManyConnections);
    assert_eq!(reader.datagram(&fifth), too_many);
    for (client, hello, name) in &clients {
        let rest = client.datagram(1, &crypto(50, &hello[50..]));
        assert_eq!(reader.datagram(&rest), read(name));
    }
    assert_eq!(reader.datagram(&fifth), read("e.example"));
}

#[test]
fn without_the_fixed_bit_only_a_decryptable_packet_is_quic() {
    let hello = hello("a.example");
    let mut client = Sealer::new(V1, ID);
    client.fixed_bit = false;
    let mut datagram = client.datagram(0, &crypto(0, &hello));
    assert_eq!(InitialReader::new().datagram(&datagram), read("a.example"));
    datagram[100] ^= 1;
    assert_eq!(InitialReader::new().datagram(&datagram), Reading::NotQuic);
}

/// A packet with a long header, whose two connection IDs have 4 bytes each.
fn long(first: u8, version: u32, rest: &[u8]) -> Vec<u8> {
    let ids = b"\x04abcd\x04efgh";
    [&[first][..], &version.to_be_bytes(), ids, rest].concat()
}

#[test]
fn other_packet_types_are_distinguished() {
    let protected = [&[20][..], &[9; 20]].concat();
    for (bytes, wanted) in [
        (long(0xd0, V1, &protected), PacketType::ZeroRtt),
        (long(0xe0, V1, &protected), PacketType::Handshake),
        (long(0xf0, V1, &[9; 16]), PacketType::Retry),
        (long(0xe0, V2, &protected), PacketType::ZeroRtt),
        (long(0xf0, V2, &protected), PacketType::Handshake),
        (long(0xc0, V2, &[9; 16]), PacketType::Retry),
        (long(0x80, 0, &[0, 0, 0, 1]), PacketType::VersionNegotiation),
        (long(0xc5, 0, &[9; 8]), PacketType::VersionNegotiation),
        (vec![0x40; 21], PacketType::Short),
        (vec![0x7f; 1500], PacketType::Short),
    ] {
        let reading = InitialReader::new().datagram(&bytes);
        assert_eq!(reading, Reading::NotInitial(wanted), "{bytes:?}");
    }
    let other = long(0xc0, 0xff00_001d, &[]); // draft 29
    assert_eq!(
        InitialReader::new().datagram(&other),
        Reading::OtherVersion(0xff00_001d)
    );
}

#[test]
fn an_initial_packet_after_another_packet_is_read() {
    let handshake = long(0xe0, V1, &[&[20][..], &[9; 20]].concat());
    let initial = Sealer::new(V1, ID).datagram(0, &crypto(0, &hello("a.example")));
    let datagram = [handshake, initial].concat();
    assert_eq!(InitialReader::new().datagram(&datagram), read("a.example"));
}
