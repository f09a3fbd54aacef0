//! Tests of the replacement in the authority of a request.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The fields of a request, as gRPC's C core encodes them.
const FIELDS: &[u8] = b"@\x05:path\x1f/sidetrack.v1.Sidetrack/Version\
    @\n:authority\x16run%2Fsd%2Fdaemon.sock\x83\x86@\x0ccontent-type\x10application/grpc";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
    [&header, payload].concat()
}

/// Hands bytes on in parts of a size, into buffers of another size.
fn handed_on(bytes: &[u8], part: usize, room: usize) -> Vec<u8> {
    let mut frames = Frames::new();
    let mut all = Vec::new();
    for part in bytes.chunks(part) {
        frames.buffer.extend_from_slice(part);
        loop {
            let mut space = vec![0; room];
            let mut out = ReadBuf::new(&mut space);
            frames.hand_on(&mut out);
            if out.filled().is_empty() {
                break;
            }
            all.extend_from_slice(out.filled());
        }
    }
    all.extend(frames.buffer);
    all
}

fn with_hyphens(bytes: &[u8]) -> Vec<u8> {
    let text = b"run%2Fsd%2Fdaemon.sock";
    let mut bytes = bytes.to_vec();
    let found = bytes.windows(text.len()).position(|part| part == text);
    let authority = &mut bytes[found.unwrap()..][..text.len()];
    authority.copy_from_slice(b"run-2Fsd-2Fdaemon.sock");
    bytes
}

fn headers(flags: u8) -> Vec<u8> {
    let mut payload = Vec::new();
    if flags & PADDED != 0 {
        payload.push(3);
    }
    if flags & PRIORITY != 0 {
        payload.extend([0; PRIORITY_SIZE]);
    }
    payload.extend(FIELDS);
    if flags & PADDED != 0 {
        payload.extend([0; 3]);
    }
    frame(HEADERS, flags, &payload)
}

#[test]
fn only_the_percent_signs_of_the_authority_are_replaced() {
    for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
        let request = headers(flags | END_HEADERS);
        let data = frame(0, 1, b"\0\0\0\0\x0b:authority%");
        let other = frame(
            HEADERS,
            END_HEADERS,
            b"\xbe\xbf@\x02te\x03%20\x3f\x01\x00\x01a\x01%",
        );
        let all = |request: &[u8]| {
            let settings = frame(4, 0, &[]);
            [PREFACE, &settings, request, &data, &other, request].concat()
        };
        let (sent, expected) = (all(&request), all(&with_hyphens(&request)));
        for (part, room) in [(1, 1), (7, 3), (100, 1000), (10_000, 10_000)] {
            assert_eq!(
                handed_on(&sent, part, room),
                expected,
                "{flags} {part} {room}"
            );
        }
    }
}

#[test]
fn the_static_name_of_the_authority_is_known() {
    for first in [0x41, 0x01, 0x11] {
        let request = |value: &[u8]| frame(HEADERS, END_HEADERS, &[&[first, 2], value].concat());
        let sent = [PREFACE, &request(b"%a")].concat();
        assert_eq!(
            handed_on(&sent, 100, 100),
            [PREFACE, &request(b"-a")].concat()
        );
    }
    // A Huffman code, and another name.
    for payload in [&b"\x41\x82%%"[..], b"\x42\x02%%"] {
        let sent = [PREFACE, &frame(HEADERS, END_HEADERS, payload)].concat();
        assert_eq!(handed_on(&sent, 100, 100), sent);
    }
}

#[test]
fn what_is_malformed_is_handed_on_unchanged() {
    for payload in [
        &b"\x40"[..],
        b"\x40\x0a:author",
        b"\x41\x7f\xff\xff\xff\xff\xff\xff",
        b"\x41\x05%a",
        b"\xff",
    ] {
        for flags in [END_HEADERS, END_HEADERS | PADDED, END_HEADERS | PRIORITY] {
            let sent = [PREFACE, &frame(HEADERS, flags, payload)].concat();
            assert_eq!(handed_on(&sent, 100, 100), sent);
        }
    }
    // Fields that continue in another frame.
    let sent = [PREFACE, &headers(0)].concat();
    assert_eq!(handed_on(&sent, 100, 100), sent);
    let large = frame(HEADERS, END_HEADERS, &vec![0x41; PAYLOAD_SIZE_MAX + 1]);
    let sent = [PREFACE, &large].concat();
    assert_eq!(handed_on(&sent, 5000, 100), sent);
}
