//! The frames of a client's Initial packet (RFC 9000, 17.2.2 and 19).

use super::cursor::Cursor;

/// A CRYPTO frame: a part of the handshake.
#[derive(Debug, PartialEq)]
pub(super) struct CryptoFrame<'a> {
    /// The position of `data`, in bytes from the beginning of the handshake.
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
}

/// The CRYPTO frames of a payload. Returns `None` if any frame in it is cut, or is not allowed in a
/// client's Initial packet.
pub(super) fn crypto(payload: &[u8]) -> Option<Vec<CryptoFrame<'_>>> {
    let mut frames = Vec::new();
    let mut cursor = Cursor::new(payload);
    if payload.is_empty() {
        return None; // a packet must have a frame (RFC 9000, 12.4)
    }
    while !cursor.rest().is_empty() {
        // The allowed types are below 64, and must have their shortest form of one byte (RFC 9000,
        // 12.4).
        match cursor.byte()? {
            PADDING | PING => {}
            ACK => ack(&mut cursor)?,
            ACK_ECN => {
                ack(&mut cursor)?;
                varints(&mut cursor, 3)?;
            }
            CRYPTO => {
                let offset = cursor.varint()?;
                let size = cursor.varint()?;
                let data = cursor.take(size)?;
                frames.push(CryptoFrame { offset, data });
            }
            CONNECTION_CLOSE => {
                varints(&mut cursor, 2)?; // the error code, and the type of the frame that caused it
                let size = cursor.varint()?;
                cursor.take(size)?; // the reason as text
            }
            _ => return None,
        }
    }
    Some(frames)
}

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_ECN: u8 = 0x03;
const CRYPTO: u8 = 0x06;
/// The type for errors of the transport; that for errors of an application is not allowed in an
/// Initial packet.
const CONNECTION_CLOSE: u8 = 0x1c;

/// Reads an ACK frame after its type: the largest number, the delay, the number of further ranges,
/// the first range, and two numbers for each further range.
fn ack(cursor: &mut Cursor<'_>) -> Option<()> {
    varints(cursor, 2)?;
    let ranges = cursor.varint()?;
    varints(cursor, 1 + 2 * ranges)
}

/// Skips `count` numbers of variable length.
fn varints(cursor: &mut Cursor<'_>, count: u64) -> Option<()> {
    for _ in 0..count {
        cursor.varint()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_allowed_frames_are_read() {
        let payload = [
            &[PADDING, PING, PADDING][..],
            &[ACK, 9, 0, 1, 0, 0, 0],
            &[ACK_ECN, 9, 0, 0, 0, 1, 2, 3],
            &[CRYPTO, 0x40, 2, 3, b'a', b'b', b'c'],
            &[CONNECTION_CLOSE, 0, 6, 2, b'n', b'o'],
            &[CRYPTO, 0, 0],
        ];
        let frames = [(2, &b"abc"[..]), (0, b"")];
        let frames = frames.map(|(offset, data)| CryptoFrame { offset, data });
        assert_eq!(crypto(&payload.concat()).unwrap(), frames);
    }

    #[test]
    fn cut_and_forbidden_frames_are_rejected() {
        for payload in [
            &[][..],
            &[ACK, 9, 0, 1, 0, 0],
            &[ACK, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
            &[CRYPTO, 0, 2, 1],
            &[CRYPTO, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[CONNECTION_CLOSE, 0, 0, 1],
            &[0x1d, 0, 0],
            &[0x08, 0],    // STREAM
            &[0x40, PING], // not in its shortest form
            &[PING, 0x1e], // HANDSHAKE_DONE
        ] {
            assert_eq!(crypto(payload), None, "{payload:?}");
        }
    }
}
