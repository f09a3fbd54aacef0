//! Makes a client's Initial packets, encrypted as in RFC 9001, 5. The fuzz target uses this file too.

use ring::aead::quic::HeaderProtectionKey;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

/// The number of QUIC version 1.
pub(crate) const V1: u32 = 1;
/// The number of QUIC version 2.
pub(crate) const V2: u32 = 0x6b33_43cf;

/// The CRYPTO frame with a ClientHello in the packets of RFC 9001, A.2 and RFC 9369, A.2, as
/// hexadecimal digits. There PADDING follows, up to 1,162 bytes.
pub(crate) const FRAME: &str = "\
    060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
    04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
    616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
    04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
    baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
    0d0010000e0403050306030203080408050806002d00020101001c0002400100\
    3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
    75300901100f088394c8f03e51570806048000ffff";

/// Encrypts the packets of a client, with the keys of the connection ID that it chose for the server.
pub(crate) struct Sealer {
    version: u32,
    destination: Vec<u8>,
    key: LessSafeKey,
    iv: Vec<u8>,
    header: HeaderProtectionKey,
    /// The token in each packet.
    pub(crate) token: Vec<u8>,
    /// The destination of packets after the server has chosen another connection ID.
    pub(crate) new_destination: Option<Vec<u8>>,
    /// The size of packet numbers, 1 to 4 bytes.
    pub(crate) number_size: usize,
    /// Whether packets have the fixed bit, which distinguishes QUIC from other protocols.
    pub(crate) fixed_bit: bool,
}

impl Sealer {
    /// Makes the keys of a client that uses this version and sends to this connection ID.
    pub(crate) fn new(version: u32, destination: &[u8]) -> Self {
        let (salt, prefix) = match version {
            V2 => ("0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2"),
            _ => ("38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic"),
        };
        let initial = mac(&unhex(salt), destination);
        let secret = expand(&initial, "client in", 32);
        let [key, iv, header] = [("key", 16), ("iv", 12), ("hp", 16)]
            .map(|(label, size)| expand(&secret, &format!("{prefix} {label}"), size));
        Self {
            version,
            destination: destination.to_vec(),
            key: LessSafeKey::new(UnboundKey::new(&aead::AES_128_GCM, &key).unwrap()),
            iv,
            header: HeaderProtectionKey::new(&aead::quic::AES_128, &header).unwrap(),
            token: Vec::new(),
            new_destination: None,
            number_size: 4,
            fixed_bit: true,
        }
    }

    /// A packet with these frames, which should have 4 bytes or more.
    pub(crate) fn seal(&self, number: u64, frames: &[u8]) -> Vec<u8> {
        let mut header = self.header(number, frames.len());
        let number_at = header.len() - self.number_size;
        let mut nonce = self.iv.clone();
        for (byte, its) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= its;
        }
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        let mut sealed = frames.to_vec();
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed)
            .unwrap();
        let sample = &sealed[4 - self.number_size..][..16];
        let mask = self.header.new_mask(sample).unwrap();
        header[0] ^= mask[0] & 0x0f;
        for (byte, mask) in header[number_at..].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        header.extend(sealed);
        header
    }

    /// The same as [`Self::seal`], padded so that the datagram has 1,200 bytes or more.
    pub(crate) fn datagram(&self, number: u64, frames: &[u8]) -> Vec<u8> {
        let around = self.header(number, frames.len()).len() + 16;
        let mut padded = frames.to_vec();
        padded.resize(frames.len().max(1200_usize.saturating_sub(around)), 0);
        self.seal(number, &padded)
    }

    fn header(&self, number: u64, frames: usize) -> Vec<u8> {
        let destination = self.new_destination.as_ref().unwrap_or(&self.destination);
        let kind = if self.version == V2 { 0x10 } else { 0 };
        let fixed_bit = if self.fixed_bit { 0x40 } else { 0 };
        let size = (self.number_size + frames + 16) as u16 | 0x4000;
        let mut header = vec![0x80 | fixed_bit | kind | (self.number_size as u8 - 1)];
        header.extend(self.version.to_be_bytes());
        header.push(destination.len() as u8);
        header.extend(destination);
        header.extend([0, self.token.len() as u8]);
        header.extend(&self.token);
        header.extend(size.to_be_bytes());
        header.extend(&number.to_be_bytes()[8 - self.number_size..]);
        header
    }
}

/// A CRYPTO frame.
pub(crate) fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    let long = |number: usize| (number as u32 | 0x8000_0000).to_be_bytes();
    [&[6][..], &long(offset), &long(data.len()), data].concat()
}

/// HKDF-Expand-Label (RFC 8446, 7.1) for 32 bytes at most, which takes one round of HMAC.
fn expand(secret: &[u8], label: &str, size: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let mut info = vec![0, size as u8, label.len() as u8];
    info.extend(label.as_bytes());
    info.extend([0, 1]);
    mac(secret, &info)[..size].to_vec()
}

fn mac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, bytes).as_ref().to_vec()
}

/// Decodes hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}
