//! The packets of the RFCs' appendices. Their tags vouch for every byte between.

use sidetrack_proxy::sniff::quic::{Hello, InitialReader, Reading, Version};

use crate::seal::{Sealer, V1, V2, unhex};

/// RFC 9001, A.2; the same in RFC 9369. PADDING follows, to 1,162 bytes.
const FRAME: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
                     04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
                     616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
                     04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
                     baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
                     0d0010000e0403050306030203080408050806002d00020101001c0002400100\
                     3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
                     75300901100f088394c8f03e51570806048000ffff";

fn check(version: Version, number: u32, begin: &str, end: &str) {
    let client = Sealer::new(number, &unhex("8394c8f03e515708"));
    let mut frames = unhex(FRAME);
    frames.resize(1162, 0);
    let packet = client.seal(2, &frames);
    assert_eq!(packet.len(), 1200);
    assert!(packet.starts_with(&unhex(begin)) && packet.ends_with(&unhex(end)));

    let hello = Hello {
        sni: Some("example.com".into()),
        alpn: vec!["alpn".into()],
        version,
    };
    let reading = InitialReader::new().datagram(&packet);
    assert_eq!(reading, Reading::Hello(hello));
}

#[test]
fn rfc_9001_a_2() {
    check(
        Version::V1,
        V1,
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
        "e221af44860018ab0856972e194cd934",
    );
}

#[test]
fn rfc_9369_a_2() {
    check(
        Version::V2,
        V2,
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
    );
}
