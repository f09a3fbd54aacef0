//! Tests with the packets in the appendices of the RFCs. Only their beginning and end are compared,
//! since the authentication tag at the end depends on every byte.

use sidetrack_proxy::sniff::quic::{Hello, InitialReader, Reading, Version};

use crate::seal::{FRAME, Sealer, V1, V2, unhex};

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
