//! The bytes of the handshake, joined from CRYPTO frames in any order.

use super::frames::CryptoFrame;
use super::{CRYPTO_SIZE_MAX, QuicError};

/// The received bytes of a handshake.
#[derive(Debug, Default)]
pub(super) struct CryptoStream {
    bytes: Vec<u8>,
    /// Which of `bytes` were received.
    received: Vec<bool>,
    /// How many bytes at the beginning were received without a gap.
    contiguous: usize,
}

impl CryptoStream {
    /// Adds the bytes of a frame. Errors: [`QuicError::Conflict`], if they differ from what was
    /// received before, and [`QuicError::TooLong`].
    pub(super) fn insert(&mut self, frame: &CryptoFrame<'_>) -> Result<(), QuicError> {
        let begin = usize::try_from(frame.offset).map_err(|_| QuicError::TooLong)?;
        let end = begin.saturating_add(frame.data.len());
        if end > CRYPTO_SIZE_MAX {
            return Err(QuicError::TooLong);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.received.resize(end, false);
        }
        let places = self.bytes[begin..end]
            .iter_mut()
            .zip(&mut self.received[begin..end]);
        for ((byte, received), &new) in places.zip(frame.data) {
            if *received && *byte != new {
                return Err(QuicError::Conflict);
            }
            (*byte, *received) = (new, true);
        }
        let more = self.received[self.contiguous..]
            .iter()
            .take_while(|received| **received);
        self.contiguous += more.count();
        Ok(())
    }

    /// The bytes at the beginning that were received without a gap.
    pub(super) fn beginning(&self) -> &[u8] {
        &self.bytes[..self.contiguous]
    }
}

/// Whether the frame has the same bytes as `message`. Bytes after the end of `message` do not matter.
pub(super) fn agrees(message: &[u8], frame: &CryptoFrame<'_>) -> bool {
    let begin = usize::try_from(frame.offset).unwrap_or(usize::MAX);
    let known = message.get(begin..).unwrap_or_default();
    known
        .iter()
        .zip(frame.data)
        .all(|(known, new)| known == new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(offset: u64, data: &[u8]) -> CryptoFrame<'_> {
        CryptoFrame { offset, data }
    }

    #[test]
    fn frames_in_any_order_are_joined() {
        let mut stream = CryptoStream::default();
        for (offset, data, beginning) in [
            (4, &b"efg"[..], &b""[..]),
            (1, b"bcd", b""),
            (9, b"", b""),
            (0, b"ab", b"abcdefg"),
            (3, b"defgh", b"abcdefgh"),
        ] {
            stream.insert(&frame(offset, data)).unwrap();
            assert_eq!(stream.beginning(), beginning);
        }
        assert_eq!(stream.insert(&frame(2, b"cX")), Err(QuicError::Conflict));
    }

    #[test]
    fn the_limit_holds() {
        let mut stream = CryptoStream::default();
        let last = CRYPTO_SIZE_MAX as u64 - 1;
        assert_eq!(stream.insert(&frame(last, b"z")), Ok(()));
        for offset in [last + 1, u64::MAX, 1 << 61] {
            assert_eq!(stream.insert(&frame(offset, b"z")), Err(QuicError::TooLong));
        }
    }

    #[test]
    fn frames_agree_with_a_message_or_not() {
        for (offset, data, wanted) in [
            (0, &b"abc"[..], true),
            (1, b"bcd", true),
            (3, b"x", true),
            (u64::MAX, b"x", true),
            (0, b"abx", false),
        ] {
            assert_eq!(agrees(b"abc", &frame(offset, data)), wanted);
        }
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 1..300),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..60_usize), 0..30),
        ) {
            let mut stream = CryptoStream::default();
            for (begin, size) in cuts {
                let begin = begin.index(bytes.len());
                let end = (begin + size).min(bytes.len());
                stream.insert(&frame(begin as u64, &bytes[begin..end])).unwrap();
                prop_assert!(bytes.starts_with(stream.beginning()));
            }
            stream.insert(&frame(0, &bytes)).unwrap();
            prop_assert_eq!(stream.beginning(), bytes);
        }
    }
}
