//! The packets of a datagram, by the unprotected part of their headers (RFC 9000, 17).

use super::cursor::{Cursor, number};
use super::{PACKETS_MAX, PacketType, QuicError, Reading, Version};

/// A client's Initial packet, still protected.
#[derive(Debug)]
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    /// The destination connection ID.
    pub(super) destination: &'a [u8],
    /// The whole packet. From `number_at` on it has [`PROTECTED_SIZE_MIN`] bytes or more.
    pub(super) bytes: &'a [u8],
    /// The offset of the packet number.
    pub(super) number_at: usize,
    /// Whether the fixed bit is set, which distinguishes QUIC from other protocols. Clients may
    /// leave it unset if their servers allow that (RFC 9287); then a packet is known as QUIC only
    /// if it can be decrypted.
    pub(super) has_fixed_bit: bool,
}

/// The size of a packet number of 4 bytes and the sample of 16 bytes after it (RFC 9001, 5.4.2).
const PROTECTED_SIZE_MIN: usize = 4 + 16;

/// The bit of the first byte that is set in a long header.
const LONG_HEADER: u8 = 0x80;
/// The bit of the first byte that is set in all packets, unless the peers have agreed otherwise.
const FIXED_BIT: u8 = 0x40;
/// The smallest packet with a short header: its first byte and what is protected.
const SHORT_PACKET_SIZE_MIN: usize = 1 + PROTECTED_SIZE_MIN;
/// The longest connection ID of the versions that are read (RFC 9000, 17.2).
const CONNECTION_ID_SIZE_MAX: u8 = 20;
/// The size of a Retry packet's integrity tag (RFC 9000, 17.2.5).
const RETRY_TAG_SIZE: usize = 16;

/// The Initial packets of a datagram.
///
/// Errors: what the datagram is, if it has none or its packets cannot be separated.
pub(super) fn initials(bytes: &[u8]) -> Result<Vec<Initial<'_>>, Reading> {
    let mut initials = Vec::new();
    let (mut next, mut rest) = next_packet(bytes)?;
    let mut instead = Reading::NotQuic;
    for count in 1.. {
        match next {
            ParsedPacket::Initial(initial) => initials.push(initial),
            ParsedPacket::Other(reading) if count == 1 => instead = reading,
            ParsedPacket::Other(_) => {}
        }
        // What does not begin a packet is padding of the datagram, which servers ignore.
        let Ok(parsed) = next_packet(rest) else {
            break;
        };
        if count == PACKETS_MAX {
            return Err(Reading::Malformed(QuicError::TooManyPackets));
        }
        (next, rest) = parsed;
    }
    let mut pairs = initials.windows(2);
    if pairs.any(|pair| pair[0].destination != pair[1].destination) {
        return Err(Reading::Malformed(QuicError::Coalesced));
    }
    if initials.is_empty() {
        return Err(instead);
    }
    Ok(initials)
}

/// A packet, read as far as it is unprotected.
enum ParsedPacket<'a> {
    Initial(Initial<'a>),
    Other(Reading),
}

/// Reads the first packet. Returns it and what follows it: nothing, if the packet has no length
/// field.
///
/// Errors: what the bytes are, if they do not begin with a packet.
fn next_packet(bytes: &[u8]) -> Result<(ParsedPacket<'_>, &[u8]), Reading> {
    let first = *bytes.first().ok_or(Reading::NotQuic)?;
    let has_fixed_bit = first & FIXED_BIT != 0;
    let last = |reading| Ok((ParsedPacket::Other(reading), &[][..]));
    if first & LONG_HEADER == 0 {
        return match has_fixed_bit && bytes.len() >= SHORT_PACKET_SIZE_MIN {
            true => last(Reading::NotInitial(PacketType::Short)),
            false => Err(Reading::NotQuic),
        };
    }
    let mut cursor = Cursor::new(&bytes[1..]);
    let version = cursor.take(4).ok_or(Reading::NotQuic)?;
    let version = number(version) as u32;
    match Version::of_number(version) {
        Some(version) => {
            let wrong = match has_fixed_bit {
                true => Reading::Malformed(QuicError::Header),
                false => Reading::NotQuic,
            };
            read_known_version(bytes, version, cursor).ok_or(wrong)
        }
        None => last(read_unknown_version(version, has_fixed_bit, cursor).ok_or(Reading::NotQuic)?),
    }
}

/// Reads a packet of an unknown version as far as all versions are the same (RFC 8999).
fn read_unknown_version(
    version: u32,
    has_fixed_bit: bool,
    mut cursor: Cursor<'_>,
) -> Option<Reading> {
    for _ in 0..2 {
        let size = cursor.byte()?;
        cursor.take(size.into())?;
    }
    match version {
        0 if !cursor.rest().is_empty() && cursor.rest().len().is_multiple_of(4) => {
            Some(Reading::NotInitial(PacketType::VersionNegotiation))
        }
        0 => None,
        // Without the fixed bit it is more likely RTP (RFC 9443).
        _ => has_fixed_bit.then_some(Reading::OtherVersion(version)),
    }
}

/// Reads the first packet in `bytes`, of a known version. `cursor` is after the version.
fn read_known_version<'a>(
    bytes: &'a [u8],
    version: Version,
    mut cursor: Cursor<'a>,
) -> Option<(ParsedPacket<'a>, &'a [u8])> {
    let has_fixed_bit = bytes[0] & FIXED_BIT != 0;
    let destination = connection_id(&mut cursor)?;
    connection_id(&mut cursor)?;
    let packet_type = version.packet_type(bytes[0]);
    match packet_type {
        None => {
            let size = cursor.varint()?;
            cursor.take(size)?; // the token
        }
        Some(_) if !has_fixed_bit => return None,
        Some(PacketType::Retry) => {
            let long_enough = cursor.rest().len() >= RETRY_TAG_SIZE;
            let parsed = ParsedPacket::Other(Reading::NotInitial(PacketType::Retry));
            return long_enough.then_some((parsed, &[]));
        }
        Some(_) => {}
    }
    let size = cursor.varint()?;
    let number_at = bytes.len() - cursor.rest().len();
    let protected = cursor.take(size)?;
    if protected.len() < PROTECTED_SIZE_MIN {
        return None;
    }
    let parsed = match packet_type {
        Some(packet) => ParsedPacket::Other(Reading::NotInitial(packet)),
        None => ParsedPacket::Initial(Initial {
            version,
            destination,
            bytes: &bytes[..number_at + protected.len()],
            number_at,
            has_fixed_bit,
        }),
    };
    Some((parsed, cursor.rest()))
}

fn connection_id<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let size = cursor.byte()?;
    if size > CONNECTION_ID_SIZE_MAX {
        return None;
    }
    cursor.take(size.into())
}

impl Version {
    fn of_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }

    /// The packet type in the first byte of a long header (RFC 9000, 17.2; RFC 9369, 3.2); `None`
    /// for an Initial packet.
    fn packet_type(self, first: u8) -> Option<PacketType> {
        let number = first >> 4 & 3;
        let index = match self {
            Self::V1 => number,
            Self::V2 => number.wrapping_sub(1) & 3,
        };
        [
            None,
            Some(PacketType::ZeroRtt),
            Some(PacketType::Handshake),
            Some(PacketType::Retry),
        ][usize::from(index)]
    }
}
