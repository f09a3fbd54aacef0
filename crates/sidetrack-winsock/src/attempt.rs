//! Work that may need a later attempt, because its answer does not exist yet: what a synchronous
//! call repeats, and what an overlapped operation executes.

use crate::abi::DWORD;
use crate::error::WinsockError;

/// Work on a socket that can be attempted again after an event of the socket.
pub(crate) trait Attempt: Send {
    /// Attempts the work. Returns the number of bytes transferred.
    fn attempt(&self) -> Result<DWORD, AttemptError>;
}

/// Work that has been done; the value is the number of bytes transferred.
pub(crate) struct Done(pub(crate) DWORD);

impl Attempt for Done {
    fn attempt(&self) -> Result<DWORD, AttemptError> {
        Ok(self.0)
    }
}

/// The reason why an attempt has no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttemptError {
    /// There will be no answer.
    Final(WinsockError),
    /// The buffer is too small; the answer has this many bytes.
    TooSmall(DWORD),
    /// The answer does not exist yet. Try again after this event.
    NotYet(Interest),
}

/// The event of a socket after which an answer may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The first datagram arrives.
    Readable,
    /// A connect ends.
    Writable,
}

impl Interest {
    /// The event as poll and epoll define it.
    pub(crate) fn events(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }
}
