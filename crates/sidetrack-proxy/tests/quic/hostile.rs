//! Tests with what no client should send.

use proptest::prelude::*;
use sidetrack_proxy::sniff::quic::*;

use crate::reader::{ID, hello, read};
use crate::seal::{Sealer, V1, V2, crypto};

fn reading(bytes: &[u8]) -> Reading {
    InitialReader::new().datagram(bytes)
}

#[test]
fn other_protocols_are_not_quic() {
    for bytes in [
        &b""[..],
        b"\x40",
        &[0x40; 20],
        b"\xc0\x00\x00\x00",
        &[0x16; 1200],                                       // like DTLS or STUN
        b"\x80\x60\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", // RTP
        b"\xc0\x00\x00\x00\x00\x00\x00",                     // no versions to choose from
        b"\xc0\x00\x00\x00\x00\x00\x00\x01\x02\x03",
        b"\xc0abcd\xff\x00", // no room for an ID of 255 bytes
        b"\xa0\x00\x00\x00\x01\x00\x00\x14aaaaaaaaaaaaaaaaaaaa", // a handshake without the fixed bit
    ] {
        assert_eq!(reading(bytes), Reading::NotQuic, "{bytes:?}");
    }
}

#[test]
fn every_cut_of_an_initial_packet_is_malformed() {
    let whole = Sealer::new(V1, ID).datagram(0, &crypto(0, &hello("a.example")));
    for end in 0..whole.len() {
        let wanted = match end {
            0..5 => Reading::NotQuic,
            _ => Reading::Malformed(QuicError::Header),
        };
        assert_eq!(reading(&whole[..end]), wanted, "{end}");
    }
}

#[test]
fn headers_with_impossible_lengths_are_malformed() {
    for rest in [
        &[21; 40][..],                                              // an ID of 21 bytes
        &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0], // a token that is too long
        &[&[0, 0, 0, 19][..], &[0; 19]].concat(),                   // too short for a sample
        &[0, 0, 0],                                                 // no length
    ] {
        let bytes = [b"\xc0\x00\x00\x00\x01", rest].concat();
        assert_eq!(
            reading(&bytes),
            Reading::Malformed(QuicError::Header),
            "{rest:?}"
        );
    }
}

/// The readings of the last datagram with these frames, and of a complete ClientHello after it.
fn after(frames: &[Vec<u8>]) -> [Reading; 2] {
    let client = Sealer::new(V1, ID);
    let mut reader = InitialReader::new();
    let mut last = Reading::NotQuic;
    for (number, frames) in (0..).zip(frames) {
        last = reader.datagram(&client.datagram(number, frames));
    }
    let whole = client.datagram(1000, &crypto(0, &hello("a.example")));
    [last, reader.datagram(&whole)]
}

#[test]
fn a_malformed_hello_stays_malformed() {
    let hello = hello("b.example");
    for (frames, error) in [
        (vec![vec![0x08, 0, 0, 0]], QuicError::Frame),
        (vec![crypto(CRYPTO_SIZE_MAX, b"a")], QuicError::TooLong),
        (vec![crypto(0, &[1, 1, 0, 0])], QuicError::TooLong),
        (vec![crypto(0, &[2])], QuicError::NoHello),
        (vec![crypto(0, &[1, 0, 0, 1, 0])], QuicError::NoHello),
        (vec![crypto(4, b"ab"), crypto(5, b"a")], QuicError::Conflict),
        (
            vec![crypto(0, &hello), crypto(60, b"other")],
            QuicError::Conflict,
        ),
        (
            vec![vec![1, 0, 0, 0]; DATAGRAMS_MAX],
            QuicError::TooManyDatagrams,
        ),
    ] {
        let wanted = Reading::Malformed(error);
        assert_eq!(after(&frames), [wanted.clone(), wanted]);
    }
    let [last, whole] = after(&vec![vec![1, 0, 0, 0]; DATAGRAMS_MAX - 1]);
    assert_eq!([last, whole], [Reading::NeedMore, read("a.example")]);
}

#[test]
fn datagrams_that_servers_discard_are_not_read() {
    let hello = hello("a.example");
    let client = Sealer::new(V1, ID);
    let small = client.seal(0, &crypto(0, &hello));
    assert!(small.len() < INITIAL_SIZE_MIN);
    assert_eq!(
        reading(&small),
        Reading::Malformed(QuicError::DatagramTooShort)
    );

    // A packet number that was received before.
    let mut reader = InitialReader::new();
    let first = client.datagram(0, &crypto(0, &hello[..50]));
    let again = client.datagram(0, &crypto(50, &hello[50..]));
    assert_eq!(reader.datagram(&first), Reading::NeedMore);
    assert_eq!(reader.datagram(&again), Reading::NeedMore);

    // A damaged packet is skipped. Without another one, the datagram is malformed.
    let mut damaged = first.clone();
    damaged[50] ^= 1;
    assert_eq!(
        reading(&damaged),
        Reading::Malformed(QuicError::Undecryptable)
    );
    damaged.extend(client.seal(1, &crypto(0, &hello)));
    assert_eq!(reading(&damaged), read("a.example"));
}

#[test]
fn a_datagram_has_packets_of_one_connection_and_only_a_few() {
    let hello = hello("a.example");
    let client = Sealer::new(V1, ID);
    let mut datagram = client.datagram(0, &crypto(0, &hello));
    datagram.extend(Sealer::new(V1, b"other").seal(1, &[1; 4]));
    assert_eq!(reading(&datagram), Reading::Malformed(QuicError::Coalesced));

    let mut datagram = client.datagram(0, &crypto(0, &hello));
    for number in 1..PACKETS_MAX as u64 {
        datagram.extend(client.seal(number, &[1; 4]));
    }
    assert_eq!(reading(&datagram), read("a.example"));
    datagram.extend(client.seal(99, &[1; 4]));
    assert_eq!(
        reading(&datagram),
        Reading::Malformed(QuicError::TooManyPackets)
    );
}

#[test]
fn the_largest_datagram_is_read() {
    let mut datagram = Sealer::new(V1, ID).seal(0, &crypto(0, &hello("a.example")));
    while datagram.len() < 65_000 {
        datagram.extend(Sealer::new(V1, ID).seal(1, &[1; 16_000]));
    }
    datagram.resize(65_507, 0);
    assert_eq!(reading(&datagram), read("a.example"));
}

proptest! {
    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1500),
        version in prop_oneof![Just(V1), Just(V2), any::<u32>()],
    ) {
        reading(&bytes);
        if let Some(number) = bytes.get(1..5) {
            let begin = [&bytes[..1], &version.to_be_bytes(), number].concat();
            reading(&[&begin[..], &bytes[5..]].concat());
        }
    }

    #[test]
    fn no_frames_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 4..60), 1..10)) {
        let client = Sealer::new(V2, ID);
        let mut reader = InitialReader::new();
        for (number, frames) in (0..).zip(frames) {
            let reading = reader.datagram(&client.datagram(number, &frames));
            prop_assert!(matches!(reading, Reading::NeedMore | Reading::Malformed(_)));
        }
    }

    #[test]
    fn a_hello_in_any_pieces_and_any_order_is_read(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        order in any::<u64>(),
        ids in prop::collection::vec(any::<u8>(), 0..=20),
    ) {
        let hello = hello("a.example");
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(hello.len())).collect();
        ends.extend([0, hello.len()]);
        ends.sort_unstable();
        let mut pieces: Vec<_> = ends.windows(2).map(|pair| (pair[0], &hello[pair[0]..pair[1]])).collect();
        pieces.sort_by_key(|(begin, _)| order.wrapping_mul(2 * *begin as u64 + 1));
        let client = Sealer::new(V1, &ids);
        let mut reader = InitialReader::new();
        let mut received = 0;
        for (number, (begin, piece)) in (0..).zip(pieces) {
            let reading = reader.datagram(&client.datagram(number, &crypto(begin, piece)));
            received += piece.len();
            let wanted = if received == hello.len() { read("a.example") } else { Reading::NeedMore };
            prop_assert_eq!(reading, wanted);
        }
    }
}
