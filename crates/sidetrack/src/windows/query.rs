//! Queries for a blob of unknown length, by an algorithm that is correct under every reading of the
//! documentation. The readings R1, R2 and R3 are defined in docs/wfp.md, 1.6.

use crate::Error;

/// Size of the first buffer in bytes. No context or records in the field is known to be larger.
const SIZE_FIRST: usize = 4096;
/// Size of the last buffer in bytes.
pub(super) const SIZE_MAX: usize = 65_536;

pub(super) const ERROR_INSUFFICIENT_BUFFER: i32 = 122;
pub(super) const WSAEFAULT: i32 = 10014;
pub(super) const WSAEINVAL: i32 = 10022;
pub(super) const WSAENOPROTOOPT: i32 = 10042;
pub(super) const WSAEOPNOTSUPP: i32 = 10045;
pub(super) const WSAENOBUFS: i32 = 10055;
pub(super) const WSAENOTCONN: i32 = 10057;
/// FWP_E_NOT_FOUND, which Microsoft's sample expects where there is no context (docs/wfp.md, 1.6).
pub(super) const FWP_E_NOT_FOUND: i32 = 0x8032_0008_u32.cast_signed();

/// The result of one control code.
pub(super) struct QueryResult {
    /// The error of WSAGetLastError; 0 if the call succeeded.
    pub(super) error: i32,
    /// The number of bytes that the call returned.
    pub(super) bytes: usize,
}

/// Queries a blob: calls `call` once, and a second time with a larger buffer if the answer may need
/// it.
///
/// Errors: [`Error::NotRedirected`] if nothing is recorded, otherwise those of [`error_of_code`].
pub(super) fn query_until_it_fits(
    mut call: impl FnMut(&mut [u8]) -> QueryResult,
) -> Result<Box<[u8]>, Error> {
    let mut buffer = vec![0; SIZE_FIRST];
    loop {
        let QueryResult { error, bytes } = call(&mut buffer);
        let needed = match error {
            // A success with more bytes than the buffer has comes from a faulty provider.
            0 if bytes == 0 || bytes > buffer.len() => return Err(Error::NotRedirected),
            0 => {
                buffer.truncate(bytes);
                return Ok(buffer.into());
            }
            ERROR_INSUFFICIENT_BUFFER | WSAEFAULT | WSAENOBUFS | WSAEINVAL => bytes,
            FWP_E_NOT_FOUND => return Err(Error::NotRedirected),
            error => return Err(error_of_code(error)),
        };
        let size = match needed > buffer.len() {
            true => needed,
            // Too small, or nothing is recorded: a call with the largest buffer decides.
            false => SIZE_MAX,
        };
        if size > SIZE_MAX || buffer.len() == SIZE_MAX {
            return Err(error_of_code(error));
        }
        buffer.resize(size, 0);
    }
}

/// The SDK's error for an error of the control codes.
pub(super) fn error_of_code(error: i32) -> Error {
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

    /// Queries a simulated provider with `length` bytes that answers as reading R1, R2 or R3 does;
    /// 4 is R3 with the needed size. Counts the calls.
    fn provider(length: usize, reading: u8, calls: &mut u32) -> Result<Box<[u8]>, Error> {
        query_until_it_fits(|buffer| {
            *calls += 1;
            let (error, bytes) = match (length, reading) {
                (0, _) => (WSAEINVAL, 0),
                (length, _) if length <= buffer.len() => (0, length),
                (length, 1) => (ERROR_INSUFFICIENT_BUFFER, length),
                (_, 2) => (WSAEINVAL, 0),
                (_, 3) => (WSAEFAULT, 0),
                (length, _) => (WSAEFAULT, length),
            };
            QueryResult { error, bytes }
        })
    }

    #[test]
    fn under_every_reading_the_query_returns_the_answer() {
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
    fn nothing_recorded_is_reported_after_two_calls() {
        let mut calls = 0;
        let refused = provider(0, 1, &mut calls);
        assert!(matches!(refused, Err(Error::NotRedirected)));
        assert_eq!(calls, 2);
    }

    #[test]
    fn each_code_has_its_error() {
        let error_for = |error| query_until_it_fits(|_| QueryResult { error, bytes: 0 });
        assert!(matches!(error_for(WSAEOPNOTSUPP), Err(Error::NoEngine)));
        assert!(matches!(error_for(WSAENOTCONN), Err(Error::NotConnected)));
        assert!(matches!(
            error_for(FWP_E_NOT_FOUND),
            Err(Error::NotRedirected)
        ));
        assert!(matches!(error_for(10050), Err(Error::System { .. })));
    }

    /// Case 125 of docs/wfp.md, 8.8.
    #[test]
    fn a_size_that_exceeds_the_buffer_is_rejected() {
        let lying = query_until_it_fits(|buffer| QueryResult {
            error: 0,
            bytes: buffer.len() + 1,
        });
        assert!(lying.is_err());
        assert!(query_until_it_fits(|_| QueryResult { error: 0, bytes: 0 }).is_err());
    }
}
