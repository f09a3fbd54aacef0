//! The handshake's bytes, put together from pieces in any order.

use super::frames::Crypto;
use super::{CRYPTO_SIZE_MAX, Fault};

/// The bytes that have come.
#[derive(Debug, Default)]
pub(super) struct Stream {
    bytes: Vec<u8>,
    /// Which of `bytes` have come.
    come: Vec<bool>,
    /// How many at the beginning have all come.
    whole: usize,
}

impl Stream {
    /// Puts a piece to its place. What has come before must be the same.
    pub(super) fn insert(&mut self, piece: &Crypto<'_>) -> Result<(), Fault> {
        let begin = usize::try_from(piece.offset).map_err(|_| Fault::TooLong)?;
        let end = begin.saturating_add(piece.data.len());
        if end > CRYPTO_SIZE_MAX {
            return Err(Fault::TooLong);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.come.resize(end, false);
        }
        let places = self.bytes[begin..end]
            .iter_mut()
            .zip(&mut self.come[begin..end]);
        for ((byte, come), &new) in places.zip(piece.data) {
            if *come && *byte != new {
                return Err(Fault::Conflict);
            }
            (*byte, *come) = (new, true);
        }
        let more = self.come[self.whole..].iter().take_while(|come| **come);
        self.whole += more.count();
        Ok(())
    }

    /// What has come without a gap.
    pub(super) fn beginning(&self) -> &[u8] {
        &self.bytes[..self.whole]
    }
}

/// Whether the piece is part of `message`, as far as it is not behind it.
pub(super) fn agrees(message: &[u8], piece: &Crypto<'_>) -> bool {
    let begin = usize::try_from(piece.offset).unwrap_or(usize::MAX);
    let known = message.get(begin..).unwrap_or_default();
    known
        .iter()
        .zip(piece.data)
        .all(|(known, new)| known == new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(offset: u64, data: &[u8]) -> Crypto<'_> {
        Crypto { offset, data }
    }

    #[test]
    fn pieces_in_any_order() {
        let mut stream = Stream::default();
        for (offset, data, beginning) in [
            (4, &b"efg"[..], &b""[..]),
            (1, b"bcd", b""),
            (9, b"", b""),
            (0, b"ab", b"abcdefg"),
            (3, b"defgh", b"abcdefgh"),
        ] {
            stream.insert(&piece(offset, data)).unwrap();
            assert_eq!(stream.beginning(), beginning);
        }
        assert_eq!(stream.insert(&piece(2, b"cX")), Err(Fault::Conflict));
    }

    #[test]
    fn the_limit() {
        let mut stream = Stream::default();
        let last = CRYPTO_SIZE_MAX as u64 - 1;
        assert_eq!(stream.insert(&piece(last, b"z")), Ok(()));
        for offset in [last + 1, u64::MAX, 1 << 61] {
            assert_eq!(stream.insert(&piece(offset, b"z")), Err(Fault::TooLong));
        }
    }

    #[test]
    fn what_agrees() {
        for (offset, data, wanted) in [
            (0, &b"abc"[..], true),
            (1, b"bcd", true),
            (3, b"x", true),
            (u64::MAX, b"x", true),
            (0, b"abx", false),
        ] {
            assert_eq!(agrees(b"abc", &piece(offset, data)), wanted);
        }
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 1..300),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..60_usize), 0..30),
        ) {
            let mut stream = Stream::default();
            for (begin, size) in cuts {
                let begin = begin.index(bytes.len());
                let end = (begin + size).min(bytes.len());
                stream.insert(&piece(begin as u64, &bytes[begin..end])).unwrap();
                prop_assert!(bytes.starts_with(stream.beginning()));
            }
            stream.insert(&piece(0, &bytes)).unwrap();
            prop_assert_eq!(stream.beginning(), bytes);
        }
    }
}
