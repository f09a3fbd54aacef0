//! The packets of a datagram, by what their headers tell unprotected (RFC 9000, 17).

use super::cursor::{Cursor, number};
use super::{Fault, PACKETS_MAX, Packet, Reading, Version};

/// A client's Initial packet, still protected.
#[derive(Debug)]
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    /// The connection ID that the client sends to.
    pub(super) destination: &'a [u8],
    /// The whole packet. Behind the packet number's place it has [`PROTECTED_SIZE_MIN`] bytes or
    /// more.
    pub(super) bytes: &'a [u8],
    pub(super) number_at: usize,
    /// Whether it has the bit that tells QUIC from other protocols. Clients may leave it out if
    /// their servers allow (RFC 9287); then only the keys tell.
    pub(super) is_marked: bool,
}

/// A packet number, and the sample of 16 bytes that begins where a number of 4 bytes would end
/// (RFC 9001, 5.4.2).
const PROTECTED_SIZE_MIN: usize = 4 + 16;

const LONG: u8 = 0x80;
const MARK: u8 = 0x40;
/// A first byte, a packet number, and what must follow it so that a sample can be taken.
const SHORT_SIZE_MIN: usize = 1 + PROTECTED_SIZE_MIN;
/// In the versions that are read (RFC 9000, 17.2).
const CONNECTION_ID_SIZE_MAX: u8 = 20;
/// RFC 9000, 17.2.5.
const RETRY_TAG_SIZE: usize = 16;

/// The datagram's Initial packets; what it is instead, if there are none or it cannot be gone
/// through.
pub(super) fn initials(bytes: &[u8]) -> Result<Vec<Initial<'_>>, Reading> {
    let mut initials = Vec::new();
    let (mut next, mut rest) = split(bytes)?;
    let mut instead = Reading::NotQuic;
    for count in 1.. {
        match next {
            Split::Initial(initial) => initials.push(initial),
            Split::Other(reading) if count == 1 => instead = reading,
            Split::Other(_) => {}
        }
        // What is no packet pads the datagram; servers ignore it.
        let Ok(split) = split(rest) else {
            break;
        };
        if count == PACKETS_MAX {
            return Err(Reading::Malformed(Fault::TooManyPackets));
        }
        (next, rest) = split;
    }
    let mut pairs = initials.windows(2);
    if pairs.any(|pair| pair[0].destination != pair[1].destination) {
        return Err(Reading::Malformed(Fault::Coalesced));
    }
    if initials.is_empty() {
        return Err(instead);
    }
    Ok(initials)
}

enum Split<'a> {
    Initial(Initial<'a>),
    Other(Reading),
}

/// The first packet, and what follows it; nothing does if it does not tell its length.
fn split(bytes: &[u8]) -> Result<(Split<'_>, &[u8]), Reading> {
    let first = *bytes.first().ok_or(Reading::NotQuic)?;
    let is_marked = first & MARK != 0;
    let last = |reading| Ok((Split::Other(reading), &[][..]));
    if first & LONG == 0 {
        return match is_marked && bytes.len() >= SHORT_SIZE_MIN {
            true => last(Reading::NotInitial(Packet::Short)),
            false => Err(Reading::NotQuic),
        };
    }
    let mut cursor = Cursor::new(&bytes[1..]);
    let version = cursor.take(4).ok_or(Reading::NotQuic)?;
    let version = number(version) as u32;
    match Version::of_number(version) {
        Some(version) => {
            let wrong = match is_marked {
                true => Reading::Malformed(Fault::Header),
                false => Reading::NotQuic,
            };
            split_known(bytes, version, cursor).ok_or(wrong)
        }
        None => last(unknown(version, is_marked, cursor).ok_or(Reading::NotQuic)?),
    }
}

/// What is the same in all versions (RFC 8999).
fn unknown(version: u32, is_marked: bool, mut cursor: Cursor<'_>) -> Option<Reading> {
    for _ in 0..2 {
        let size = cursor.byte()?;
        cursor.take(size.into())?;
    }
    match version {
        0 if !cursor.rest().is_empty() && cursor.rest().len().is_multiple_of(4) => {
            Some(Reading::NotInitial(Packet::VersionNegotiation))
        }
        0 => None,
        // Without the mark it is RTP, rather (RFC 9443).
        _ => is_marked.then_some(Reading::OtherVersion(version)),
    }
}

/// `cursor` is behind the version.
fn split_known<'a>(
    bytes: &'a [u8],
    version: Version,
    mut cursor: Cursor<'a>,
) -> Option<(Split<'a>, &'a [u8])> {
    let is_marked = bytes[0] & MARK != 0;
    let destination = connection_id(&mut cursor)?;
    connection_id(&mut cursor)?;
    let kind = version.packet(bytes[0]);
    match kind {
        None => {
            let size = cursor.varint()?;
            cursor.take(size)?; // the token
        }
        Some(_) if !is_marked => return None,
        Some(Packet::Retry) => {
            let long_enough = cursor.rest().len() >= RETRY_TAG_SIZE;
            let split = Split::Other(Reading::NotInitial(Packet::Retry));
            return long_enough.then_some((split, &[]));
        }
        Some(_) => {}
    }
    let size = cursor.varint()?;
    let number_at = bytes.len() - cursor.rest().len();
    let protected = cursor.take(size)?;
    if protected.len() < PROTECTED_SIZE_MIN {
        return None;
    }
    let split = match kind {
        Some(packet) => Split::Other(Reading::NotInitial(packet)),
        None => Split::Initial(Initial {
            version,
            destination,
            bytes: &bytes[..number_at + protected.len()],
            number_at,
            is_marked,
        }),
    };
    Some((split, cursor.rest()))
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

    /// The type of a long header that begins so (RFC 9000, 17.2; RFC 9369, 3.2); `None` of the
    /// Initial packet.
    fn packet(self, first: u8) -> Option<Packet> {
        let kind = first >> 4 & 3;
        let place = match self {
            Self::V1 => kind,
            Self::V2 => kind.wrapping_sub(1) & 3,
        };
        [
            None,
            Some(Packet::ZeroRtt),
            Some(Packet::Handshake),
            Some(Packet::Retry),
        ][usize::from(place)]
    }
}
