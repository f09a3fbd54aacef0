//! Queries for the context or the records of a socket: their execution, and the meaning of the
//! kernel's answers (docs/wfp.md, 1.6). "Step" in a comment means a step of the table there.

use sidetrack_abi::kernel::{self, INFO, Info};
use zerocopy::FromBytes;

use crate::abi::DWORD;
use crate::attempt::{Attempt, AttemptError, Interest};
use crate::error::{
    WSAEFAULT, WSAEINVAL, WSAENETDOWN, WSAENOPROTOOPT, WSAENOTCONN, WSAEOPNOTSUPP, WinsockError,
    WinsockResult,
};
use crate::memory::MemoryRange;
use crate::socket;

/// Largest answer in bytes. An eBPF program sees no more of an option's buffer.
pub(crate) const ANSWER_MAX: usize = 4096;
/// Smallest capacity in bytes, other than 0: the size of a ULONG.
const CAPACITY_MIN: usize = 4;

/// A query on one socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedirectQuery {
    pub(crate) socket: i32,
    /// The option of the kernel side: CONTEXT or RECORDS.
    pub(crate) name: i32,
    /// The caller's buffer for the answer.
    pub(crate) output: MemoryRange,
}

impl RedirectQuery {
    /// Calls getsockopt with the caller's buffer. Returns the length of the answer, or errno,
    /// without interpreting it.
    pub(crate) fn call_getsockopt(&self) -> Result<usize, i32> {
        let capacity = self.output.length.min(ANSWER_MAX);
        socket::get_option(self.socket, self.name, self.output.address, capacity)
    }

    /// Steps 4 to 6: what can be checked without knowing the state of the connection.
    pub(crate) fn check_arguments(&self) -> WinsockResult<()> {
        self.check_protocol()?;
        if !self.output.is_writable() || (self.output.address == 0 && self.output.length > 0) {
            return Err(WinsockError(WSAEFAULT));
        }
        match self.output.length {
            0 | CAPACITY_MIN.. => Ok(()),
            _ => Err(WinsockError(WSAEINVAL)),
        }
    }

    /// Step 4: whether the protocol has the option, and an engine is attached.
    fn check_protocol(&self) -> WinsockResult<()> {
        let mut records = [0_u8; size_of::<kernel::Records>()];
        let space = MemoryRange::of(records.as_mut_ptr(), records.len());
        match socket::get_option(self.socket, kernel::RECORDS, space.address, space.length) {
            Err(libc::ENODATA | libc::ENOTCONN) | Ok(_) => Ok(()),
            Err(errno) => Err(self.winsock_error(errno)),
        }
    }

    /// The error for a buffer that is too small, with the size that the answer needs.
    fn size_error(&self) -> AttemptError {
        let mut buffer = Aligned([0; size_of::<Info>()]);
        let space = MemoryRange::of(buffer.0.as_mut_ptr(), buffer.0.len());
        match socket::get_option(self.socket, INFO, space.address, space.length) {
            Err(errno) => return self.attempt_error(errno),
            Ok(length) if length < buffer.0.len() => {
                return AttemptError::Final(WinsockError(WSAEOPNOTSUPP));
            }
            Ok(_) => {}
        }
        let Ok(info) = Info::ref_from_bytes(&buffer.0) else {
            return AttemptError::Final(WinsockError(WSAEOPNOTSUPP));
        };
        let needed = match self.name {
            kernel::RECORDS => info.records_length,
            _ => info.context_length,
        };
        match needed {
            0 => AttemptError::Final(WinsockError(WSAEINVAL)), // records without a context
            needed => AttemptError::TooSmall(needed),
        }
    }

    /// The meaning of an errno for this attempt.
    fn attempt_error(&self, errno: i32) -> AttemptError {
        match errno {
            libc::ENODATA if socket::has_no_datagram_yet(self.socket) => {
                AttemptError::NotYet(Interest::Readable)
            }
            libc::ENOTCONN if socket::is_connecting(self.socket) => {
                AttemptError::NotYet(Interest::Writable)
            }
            errno => AttemptError::Final(self.winsock_error(errno)),
        }
    }

    /// The error for an errno, by the table of docs/wfp.md, 1.5.
    fn winsock_error(&self, errno: i32) -> WinsockError {
        match errno {
            // Nothing is recorded. The error was measured (docs/wfp.md, 1.6.9).
            libc::ENODATA => WinsockError(WSAEINVAL),
            libc::EPROTONOSUPPORT => WinsockError(WSAENOPROTOOPT),
            libc::EOPNOTSUPP | libc::ENOPROTOOPT => no_engine(self.socket),
            errno => WinsockError::from_errno(errno),
        }
    }
}

impl Attempt for RedirectQuery {
    /// Steps 7 to 10. The output buffer must have been checked.
    fn attempt(&self) -> Result<DWORD, AttemptError> {
        if socket::is_datagram_listener(self.socket) {
            // Its datagrams have records and context, not the socket.
            return Err(AttemptError::Final(WinsockError(WSAENOTCONN)));
        }
        let answer = match self.output.length {
            0 => Err(libc::ENOBUFS),
            _ => self.call_getsockopt(),
        };
        match answer {
            Ok(length) => Ok(length as DWORD),
            Err(libc::ENOBUFS) => Err(self.size_error()),
            Err(errno) => Err(self.attempt_error(errno)),
        }
    }
}

/// The error if no engine answers: WSAENETDOWN if an engine has answered for this socket before,
/// otherwise WSAEOPNOTSUPP.
pub(crate) fn no_engine(socket: i32) -> WinsockError {
    match socket::had_engine(socket) {
        true => WinsockError(WSAENETDOWN),
        false => WinsockError(WSAEOPNOTSUPP),
    }
}

/// A buffer for INFO, aligned so that the answer can be read in place.
#[repr(align(8))]
struct Aligned([u8; size_of::<Info>()]);
