//! No datagram makes the reader of QUIC Initial packets panic, and neither does any frame in a
//! packet that can be decrypted. Every such packet is read or refused.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use sidetrack_proxy::sniff::HOST_SIZE_MAX;
use sidetrack_proxy::sniff::quic::{CONNECTIONS_MAX, DATAGRAMS_MAX, InitialReader, QuicError, Reading};

#[allow(dead_code)] // the proxy's tests use more of this module
#[path = "../../crates/sidetrack-proxy/tests/quic/seal.rs"]
mod seal;

use seal::{FRAME, Sealer, V1, V2, crypto, unhex};

thread_local! {
    /// Clients with different connection ids: one more than a reader follows.
    static CLIENTS: LazyCell<Vec<Sealer>> = LazyCell::new(|| {
        let versions = [V1, V2].into_iter().cycle().take(CONNECTIONS_MAX + 1);
        versions.zip(0..).map(|(version, id)| Sealer::new(version, &[id; 8])).collect()
    });
    static HELLO: LazyCell<Vec<u8>> = LazyCell::new(|| unhex(FRAME)[4..].to_vec());
}

fuzz_target!(|input: (&[u8], Vec<(u8, u8, u16, &[u8])>)| {
    let (raw, sealed) = input;
    let mut reader = InitialReader::new();
    reader.datagram(raw);
    let mut undecided = 0;
    for (number, (client, kind, offset, bytes)) in (0..).zip(sealed) {
        let offset = usize::from(offset);
        let frames = match kind % 3 {
            0 => bytes.to_vec(),
            1 => crypto(offset, bytes),
            _ => piece_of_hello(offset, bytes.len()),
        };
        if frames.len() > 16_000 {
            continue; // the sealer's length field cannot hold more
        }
        let datagram = CLIENTS.with(|clients| {
            let client = &clients[usize::from(client) % clients.len()];
            client.datagram(number, &frames)
        });
        match reader.datagram(&datagram) {
            Reading::NeedMore => undecided += 1,
            Reading::Hello(hello) => {
                assert!(hello.sni.is_none_or(|sni| sni.len() <= 3 * HOST_SIZE_MAX))
            }
            Reading::Malformed(error) => assert!(!matches!(error, QuicError::Header | QuicError::Undecryptable)),
            other => panic!("{other:?}"),
        }
    }
    assert!(undecided <= CONNECTIONS_MAX * (DATAGRAMS_MAX - 1));
});

/// A part of a ClientHello, which the fuzzer would not find by itself. The reader assembles such
/// parts, or finds that they contradict each other.
fn piece_of_hello(offset: usize, size: usize) -> Vec<u8> {
    HELLO.with(|hello| {
        let begin = offset % hello.len();
        let end = hello.len().min(begin + 8 * size);
        crypto(begin, &hello[begin..end])
    })
}
