//! The keys of a client's Initial packets (RFC 9001, 5.2; RFC 9369, 3.3).

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::DirectionalKeys;
use rustls::{Side, quic};

use super::Version;
use super::cursor::number;
use super::packet::Initial;

/// The keys that decrypt a client's Initial packets.
pub(super) struct Keys(DirectionalKeys);

impl Keys {
    /// The keys of a client that sent its first packet to this connection ID.
    pub(super) fn of_client(version: Version, destination: &[u8]) -> Self {
        // All versions protect Initial packets with this cipher suite.
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .and_then(|suite| suite.quic_suite())
            .expect("the cipher suite is one of TLS 1.3 and usable for QUIC");
        let version = match version {
            Version::V1 => quic::Version::V1,
            Version::V2 => quic::Version::V2,
        };
        Self(suite.keys(destination, Side::Server, version).remote)
    }

    /// Decrypts a packet. Returns its number and payload, or `None` if it was not encrypted with
    /// these keys. `largest` is the largest packet number before it.
    pub(super) fn open(
        &self,
        packet: &Initial<'_>,
        largest: Option<u64>,
    ) -> Option<(u64, Vec<u8>)> {
        let number_at = packet.number_at;
        let sample_at = number_at + NUMBER_SIZE_MAX;
        let sample = packet
            .bytes
            .get(sample_at..sample_at + self.0.header.sample_len())?;

        let mut bytes = packet.bytes.to_vec();
        let (header, rest) = bytes.split_at_mut_checked(number_at)?;
        let (first, protected_number) = (header.first_mut()?, rest.get_mut(..NUMBER_SIZE_MAX)?);
        let unprotected = (self.0.header).decrypt_in_place(sample, first, protected_number);
        unprotected.ok()?;
        let number_size = usize::from(bytes[0] & 3) + 1;
        let payload_at = number_at + number_size;
        let number = full_number(number(&bytes[number_at..payload_at]), number_size, largest);

        let (header, sealed) = bytes.split_at_mut(payload_at);
        let opened = self.0.packet.decrypt_in_place(number, header, sealed);
        let size = opened.ok()?.len();
        bytes.drain(..payload_at);
        bytes.truncate(size);
        Some((number, bytes))
    }
}

/// The size of the longest packet number, in bytes. The sample begins after so many bytes, whatever
/// the number's size (RFC 9001, 5.4.2).
const NUMBER_SIZE_MAX: usize = 4;

/// The full packet number for a truncated one of `size` bytes: the number closest to the expected
/// one that ends with these bytes (RFC 9000, A.3).
fn full_number(cut: u64, size: usize, largest: Option<u64>) -> u64 {
    let expected = largest.map_or(0, |largest| largest + 1);
    let window = 1_u64 << (8 * size);
    let near = expected & !(window - 1) | cut;
    if near + window / 2 <= expected && near + window < 1 << 62 {
        near + window
    } else if near > expected + window / 2 && near >= window {
        near - window
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_numbers_are_completed() {
        assert_eq!(full_number(0x9b32, 2, Some(0xa82f_30ea)), 0xa82f_9b32); // RFC 9000, A.3
        assert_eq!(full_number(3, 1, None), 3);
        assert_eq!(full_number(0, 1, Some(255)), 256);
        assert_eq!(full_number(1, 1, Some(254)), 257);
        assert_eq!(full_number(255, 1, Some(256)), 255);
        assert_eq!(
            full_number(0, 4, Some((1 << 62) - 3)),
            (1 << 62) - (1 << 32)
        );
    }
}
