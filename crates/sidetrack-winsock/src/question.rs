//! What a query asks the kernel, and what the answers mean (spec 1.6).

use sidetrack_abi::kernel::{self, INFO, Info};
use zerocopy::FromBytes;

use crate::abi::{DWORD, INT, SIDETRACK_READING_R2, SIDETRACK_READING_R3};
use crate::error::{
    ERROR_INSUFFICIENT_BUFFER, Fault, Reply, WSAEFAULT, WSAEINVAL, WSAENETDOWN, WSAENOPROTOOPT,
    WSAENOTCONN, WSAEOPNOTSUPP,
};
use crate::memory::Span;
use crate::{socket, startup};

/// What eBPF sees of an option's buffer at most; no answer is longer.
pub(crate) const ANSWER_MAX: usize = 4096;
/// A capacity must be that of a ULONG at least, or 0.
const CAPACITY_MIN: usize = 4;

/// One query of one socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) socket: i32,
    /// The kernel's option: CONTEXT or RECORDS.
    pub(crate) name: i32,
    /// Where the answer goes.
    pub(crate) output: Span,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// There will be none.
    Final(Fault),
    /// It has so many bytes.
    TooSmall(DWORD),
    /// It does not exist yet.
    NotYet(Interest),
}

/// What happens to a socket that may get an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Its first datagram comes.
    Readable,
    /// Its connect ends, or it has room.
    Writable,
}

impl Interest {
    /// As poll and epoll have them.
    pub(crate) fn events(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }
}

impl Question {
    /// The kernel's own answer: bytes, or errno. Nothing is judged yet.
    pub(crate) fn put(&self) -> Result<usize, i32> {
        let capacity = self.output.length.min(ANSWER_MAX);
        socket::get_option(self.socket, self.name, self.output.address, capacity)
    }

    /// Steps 4 to 6 of the reading: what is wrong however the socket's connection is.
    pub(crate) fn check(&self) -> Reply<()> {
        self.check_protocol()?;
        if !self.output.is_writable() || (self.output.address == 0 && self.output.length > 0) {
            return Err(Fault(WSAEFAULT));
        }
        match self.output.length {
            0 | CAPACITY_MIN.. => Ok(()),
            _ => Err(Fault(WSAEINVAL)),
        }
    }

    /// Has this kind of socket an answer at all, and is there an engine?
    fn check_protocol(&self) -> Reply<()> {
        let mut records = [0_u8; size_of::<kernel::Records>()];
        let space = Span::of(records.as_mut_ptr(), records.len());
        match socket::get_option(self.socket, kernel::RECORDS, space.address, space.length) {
            Err(libc::ENODATA | libc::ENOTCONN) | Ok(_) => Ok(()),
            Err(errno) => Err(self.fault_of(errno)),
        }
    }

    /// Steps 7 to 10. The output must have been checked.
    pub(crate) fn ask(&self) -> Result<DWORD, Refusal> {
        if socket::is_datagram_listener(self.socket) {
            return Err(Refusal::Final(Fault(WSAENOTCONN))); // its datagrams answer, not the socket
        }
        let answer = match self.output.length {
            0 => Err(libc::ENOBUFS),
            _ => self.put(),
        };
        match answer {
            Ok(length) => Ok(length as DWORD),
            Err(libc::ENOBUFS) => Err(self.needed()),
            Err(errno) => Err(self.refusal_of(errno)),
        }
    }

    /// How many bytes there would be.
    fn needed(&self) -> Refusal {
        let mut buffer = Aligned([0; size_of::<Info>()]);
        let space = Span::of(buffer.0.as_mut_ptr(), buffer.0.len());
        match socket::get_option(self.socket, INFO, space.address, space.length) {
            Err(errno) => return self.refusal_of(errno),
            Ok(length) if length < buffer.0.len() => return Refusal::Final(Fault(WSAEOPNOTSUPP)),
            Ok(_) => {}
        }
        let Ok(info) = Info::ref_from_bytes(&buffer.0) else {
            return Refusal::Final(Fault(WSAEOPNOTSUPP));
        };
        let needed = match self.name {
            kernel::RECORDS => info.records_length,
            _ => info.context_length,
        };
        match needed {
            0 => Refusal::Final(Fault(WSAEINVAL)), // records without a context
            needed => Refusal::TooSmall(needed),
        }
    }

    fn refusal_of(&self, errno: i32) -> Refusal {
        match errno {
            libc::ENODATA if socket::awaits_datagram(self.socket) => {
                Refusal::NotYet(Interest::Readable)
            }
            libc::ENOTCONN if socket::is_connecting(self.socket) => {
                Refusal::NotYet(Interest::Writable)
            }
            errno => Refusal::Final(self.fault_of(errno)),
        }
    }

    /// By the table of spec 1.5.
    fn fault_of(&self, errno: i32) -> Fault {
        match errno {
            libc::ENODATA => Fault(WSAEINVAL), // as measured: nothing is recorded
            libc::EPROTONOSUPPORT => Fault(WSAENOPROTOOPT),
            libc::EOPNOTSUPP | libc::ENOPROTOOPT => no_engine(self.socket),
            errno => Fault::of_errno(errno),
        }
    }
}

/// No engine answers: there never was one for this socket, or it has gone.
pub(crate) fn no_engine(socket: i32) -> Fault {
    match socket::had_engine(socket) {
        true => Fault(WSAENETDOWN),
        false => Fault(WSAEOPNOTSUPP),
    }
}

/// How the reading in use tells that `needed` bytes do not fit: the error, and the count.
pub(crate) fn too_small(needed: DWORD) -> (INT, DWORD) {
    match startup::reading() {
        SIDETRACK_READING_R2 => (WSAEINVAL, 0),
        SIDETRACK_READING_R3 => (WSAEFAULT, needed),
        _ => (ERROR_INSUFFICIENT_BUFFER, needed),
    }
}

#[repr(align(8))]
struct Aligned([u8; size_of::<Info>()]);
