//! A cursor that reads bytes from the beginning to the end.

/// Reads bytes. Each function returns `None` if there are too few left.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, size: u64) -> Option<&'a [u8]> {
        let size = usize::try_from(size).ok()?;
        let (taken, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Reads a number of variable length: its first two bits say whether it has 1, 2, 4 or 8 bytes
    /// (RFC 9000, 16).
    pub(super) fn varint(&mut self) -> Option<u64> {
        let size = 1 << (self.rest.first()? >> 6);
        let taken = self.take(size)?;
        let value = number(taken);
        Some(value & (u64::MAX >> (66 - 8 * size)))
    }
}

/// The number in at most 8 bytes, most significant first.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000, A.1.
    #[test]
    fn numbers_of_variable_length() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                Some(151_288_809_941_952_652),
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], Some(494_878_333)),
            (&[0x7b, 0xbd], Some(15_293)),
            (&[0x25], Some(37)),
            (&[0x40, 0x25], Some(37)),
            (&[0x40], None),
            (&[], None),
        ] {
            assert_eq!(Cursor::new(bytes).varint(), value);
        }
    }
}
