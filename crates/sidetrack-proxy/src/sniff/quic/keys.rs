//! The keys of a client's Initial packets (RFC 9001, 5.2; RFC 9369, 3.3).

use ring::aead::quic::HeaderProtectionKey;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::Version;
use super::cursor::number;
use super::packet::Initial;

/// The keys that decrypt a client's Initial packets.
pub(super) struct Keys {
    packet: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    header: HeaderProtectionKey,
}

impl Keys {
    /// The keys of a client that sent its first packet to this connection ID.
    pub(super) fn of_client(version: Version, destination: &[u8]) -> Self {
        let (salt, [key, iv, header]) = match version {
            Version::V1 => (SALT_V1, [&b"quic key"[..], b"quic iv", b"quic hp"]),
            Version::V2 => (SALT_V2, [&b"quicv2 key"[..], b"quicv2 iv", b"quicv2 hp"]),
        };
        let initial = Salt::new(HKDF_SHA256, &salt).extract(destination);
        let secret: [u8; 32] = expand(&initial, b"client in");
        let client = Prk::new_less_safe(HKDF_SHA256, &secret);
        let key: [u8; 16] = expand(&client, key);
        let header_key: [u8; 16] = expand(&client, header);
        Self {
            packet: LessSafeKey::new(
                UnboundKey::new(&aead::AES_128_GCM, &key).expect("16 bytes make a key"),
            ),
            iv: expand(&client, iv),
            header: HeaderProtectionKey::new(&aead::quic::AES_128, &header_key)
                .expect("16 bytes make a key"),
        }
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
            .get(sample_at..sample_at + self.header.algorithm().sample_len())?;
        let [mask, number_mask @ ..] = self.header.new_mask(sample).ok()?;

        let mut bytes = packet.bytes.to_vec();
        bytes[0] ^= mask & 0x0f;
        let number_size = usize::from(bytes[0] & 3) + 1;
        let payload_at = number_at + number_size;
        for (byte, mask) in bytes[number_at..payload_at].iter_mut().zip(number_mask) {
            *byte ^= mask;
        }
        let number = full_number(number(&bytes[number_at..payload_at]), number_size, largest);

        let (header, sealed) = bytes.split_at_mut(payload_at);
        let nonce = self.nonce(number);
        let opened = self
            .packet
            .open_in_place(nonce, Aad::from(header), sealed)
            .ok()?;
        let size = opened.len();
        bytes.drain(..payload_at);
        bytes.truncate(size);
        Some((number, bytes))
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, its) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= its;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

const NUMBER_SIZE_MAX: usize = 4;

const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
    0xf9, 0xbd, 0x2e, 0xd9,
];

/// HKDF-Expand-Label without context (RFC 8446, 7.1).
fn expand<const SIZE: usize>(secret: &Prk, label: &[u8]) -> [u8; SIZE] {
    struct Size(usize);
    impl KeyType for Size {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"tls13 ";
    let head = [0, SIZE as u8, (PREFIX.len() + label.len()) as u8];
    let info = [&head, PREFIX, label, &[0]];
    let mut output = [0; SIZE];
    secret
        .expand(&info, Size(SIZE))
        .and_then(|expanded| expanded.fill(&mut output))
        .expect("HKDF gives as many bytes");
    output
}

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
