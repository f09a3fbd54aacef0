//! How to ask for a blob whose length is not known, under every reading of the documentation (spec 1.6).

use crate::Error;

/// Bytes of the first try. Larger than any context or records that have been seen.
const FIRST: usize = 4096;
/// Bytes of the last.
pub(super) const LAST: usize = 65_536;

pub(super) const ERROR_INSUFFICIENT_BUFFER: i32 = 122;
pub(super) const WSAEFAULT: i32 = 10014;
pub(super) const WSAEINVAL: i32 = 10022;
pub(super) const WSAENOPROTOOPT: i32 = 10042;
pub(super) const WSAEOPNOTSUPP: i32 = 10045;
pub(super) const WSAENOBUFS: i32 = 10055;
pub(super) const WSAENOTCONN: i32 = 10057;
/// FWP_E_NOT_FOUND, as samples know it (spec 1.6).
pub(super) const FWP_E_NOT_FOUND: i32 = 0x8032_0008_u32.cast_signed();

/// One call's answer: the error (0 if none), and the count of bytes.
pub(super) struct Answer {
    pub(super) error: i32,
    pub(super) bytes: usize,
}

/// Calls until the answer fits: its bytes. Errors: [`Error::NotRedirected`] (nothing is recorded),
/// [`Error::NotConnected`], [`Error::NoEngine`], [`Error::System`].
pub(super) fn grow(mut call: impl FnMut(&mut [u8]) -> Answer) -> Result<Box<[u8]>, Error> {
    let mut buffer = vec![0; FIRST];
    loop {
        let Answer { error, bytes } = call(&mut buffer);
        let needed = match error {
            // More than there was room for is no success.
            0 if bytes == 0 || bytes > buffer.len() => return Err(Error::NotRedirected),
            0 => {
                buffer.truncate(bytes);
                return Ok(buffer.into());
            }
            ERROR_INSUFFICIENT_BUFFER | WSAEFAULT | WSAENOBUFS | WSAEINVAL => bytes,
            FWP_E_NOT_FOUND => return Err(Error::NotRedirected),
            error => return Err(failure(error)),
        };
        let size = match needed > buffer.len() {
            true => needed,
            false => LAST, // it may be too small, or nothing may be recorded: one more call tells
        };
        if size > LAST || buffer.len() == LAST {
            return Err(failure(error));
        }
        buffer.resize(size, 0);
    }
}

/// What an error means to a proxy.
pub(super) fn failure(error: i32) -> Error {
    match error {
        WSAEINVAL | FWP_E_NOT_FOUND => Error::NotRedirected,
        WSAENOTCONN => Error::NotConnected,
        WSAEOPNOTSUPP => Error::NoEngine,
        WSAENOPROTOOPT => Error::NotTcp,
        error => Error::System {
            what: "query the redirected connection",
            source: std::io::Error::from_raw_os_error(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider with so many bytes, by one reading; counts its calls.
    fn provider(length: usize, reading: u8, calls: &mut u32) -> Result<Box<[u8]>, Error> {
        grow(|buffer| {
            *calls += 1;
            let (error, bytes) = match (length, reading) {
                (0, _) => (WSAEINVAL, 0),
                (length, _) if length <= buffer.len() => (0, length),
                (length, 1) => (ERROR_INSUFFICIENT_BUFFER, length),
                (_, 2) => (WSAEINVAL, 0),
                (_, 3) => (WSAEFAULT, 0),
                (length, _) => (WSAEFAULT, length),
            };
            Answer { error, bytes }
        })
    }

    #[test]
    fn every_reading_ends_with_the_answer() {
        for reading in 1..=4 {
            for length in [1, 32, 4096, 4097, 65_536] {
                let mut calls = 0;
                let answer = provider(length, reading, &mut calls).unwrap();
                assert_eq!(answer.len(), length, "R{reading}");
                assert!(calls <= 2, "R{reading}: {calls} calls for {length} bytes");
            }
            let mut calls = 0;
            assert!(provider(65_537, reading, &mut calls).is_err());
            assert!(calls <= 2);
        }
    }

    #[test]
    fn nothing_recorded_is_told_after_two_calls() {
        let mut calls = 0;
        let refused = provider(0, 1, &mut calls);
        assert!(matches!(refused, Err(Error::NotRedirected)));
        assert_eq!(calls, 2);
    }

    #[test]
    fn each_error_has_its_meaning() {
        let of = |error| grow(|_| Answer { error, bytes: 0 });
        assert!(matches!(of(WSAEOPNOTSUPP), Err(Error::NoEngine)));
        assert!(matches!(of(WSAENOTCONN), Err(Error::NotConnected)));
        assert!(matches!(of(FWP_E_NOT_FOUND), Err(Error::NotRedirected)));
        assert!(matches!(of(10050), Err(Error::System { .. })));
    }

    /// Spec 8.8, case 125.
    #[test]
    fn a_provider_that_lies_is_not_believed() {
        let lying = grow(|buffer| Answer {
            error: 0,
            bytes: buffer.len() + 1,
        });
        assert!(lying.is_err());
        assert!(grow(|_| Answer { error: 0, bytes: 0 }).is_err());
    }
}
