//! The error numbers of Winsock (docs/wfp.md, 6), and their correspondence to errno.
#![allow(missing_docs)] // the constants are those of the Windows headers, under their names

use crate::abi::INT;

pub const WSA_INVALID_HANDLE: INT = 6;
pub const WSA_NOT_ENOUGH_MEMORY: INT = 8;
pub const WSA_INVALID_PARAMETER: INT = 87;
pub const ERROR_INSUFFICIENT_BUFFER: INT = 122;
pub const WSA_OPERATION_ABORTED: INT = 995;
pub const WSA_IO_INCOMPLETE: INT = 996;
pub const WSA_IO_PENDING: INT = 997;
pub const WSAEINTR: INT = 10004;
pub const WSAEBADF: INT = 10009;
pub const WSAEACCES: INT = 10013;
pub const WSAEFAULT: INT = 10014;
pub const WSAEINVAL: INT = 10022;
pub const WSAEMFILE: INT = 10024;
pub const WSAEWOULDBLOCK: INT = 10035;
pub const WSAEINPROGRESS: INT = 10036;
pub const WSAEALREADY: INT = 10037;
pub const WSAENOTSOCK: INT = 10038;
pub const WSAEDESTADDRREQ: INT = 10039;
pub const WSAEMSGSIZE: INT = 10040;
pub const WSAEPROTOTYPE: INT = 10041;
pub const WSAENOPROTOOPT: INT = 10042;
pub const WSAEPROTONOSUPPORT: INT = 10043;
pub const WSAESOCKTNOSUPPORT: INT = 10044;
pub const WSAEOPNOTSUPP: INT = 10045;
pub const WSAEAFNOSUPPORT: INT = 10047;
pub const WSAEADDRINUSE: INT = 10048;
pub const WSAEADDRNOTAVAIL: INT = 10049;
pub const WSAENETDOWN: INT = 10050;
pub const WSAENETUNREACH: INT = 10051;
pub const WSAENETRESET: INT = 10052;
pub const WSAECONNABORTED: INT = 10053;
pub const WSAECONNRESET: INT = 10054;
pub const WSAENOBUFS: INT = 10055;
pub const WSAEISCONN: INT = 10056;
pub const WSAENOTCONN: INT = 10057;
pub const WSAESHUTDOWN: INT = 10058;
pub const WSAETIMEDOUT: INT = 10060;
pub const WSAECONNREFUSED: INT = 10061;
pub const WSAELOOP: INT = 10062;
pub const WSAEHOSTUNREACH: INT = 10065;
pub const WSAVERNOTSUPPORTED: INT = 10092;
pub const WSANOTINITIALISED: INT = 10093;
pub const WSASYSCALLFAILURE: INT = 10107;

/// The error of a failed call: the number that WSAGetLastError returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WinsockError(pub(crate) INT);

/// The result of a call.
pub(crate) type WinsockResult<T> = Result<T, WinsockError>;

impl WinsockError {
    /// The error for the errno with which the kernel side refused to mark a listener. No engine is
    /// WSAEOPNOTSUPP, and wrong credentials are WSAEACCES.
    pub(crate) fn from_mark_errno(errno: i32) -> Self {
        match errno {
            libc::ENOPROTOOPT | libc::EOPNOTSUPP => Self(WSAEOPNOTSUPP),
            libc::EINVAL => Self(WSAEACCES),
            errno => Self::from_errno(errno),
        }
    }

    /// The error for the errno of a socket call. An errno without a counterpart on Windows becomes
    /// WSASYSCALLFAILURE.
    pub(crate) fn from_errno(errno: i32) -> Self {
        Self(match errno {
            libc::EINTR => WSAEINTR,
            libc::EBADF | libc::ENOTSOCK => WSAENOTSOCK,
            libc::EACCES | libc::EPERM => WSAEACCES,
            libc::EFAULT => WSAEFAULT,
            libc::EINVAL => WSAEINVAL,
            libc::EMFILE | libc::ENFILE => WSAEMFILE,
            libc::EAGAIN | libc::EINPROGRESS => WSAEWOULDBLOCK,
            libc::EALREADY => WSAEALREADY,
            libc::EDESTADDRREQ => WSAEDESTADDRREQ,
            libc::EMSGSIZE => WSAEMSGSIZE,
            libc::EPROTOTYPE => WSAEPROTOTYPE,
            libc::ENOPROTOOPT => WSAENOPROTOOPT,
            libc::EPROTONOSUPPORT => WSAEPROTONOSUPPORT,
            libc::ESOCKTNOSUPPORT => WSAESOCKTNOSUPPORT,
            libc::EOPNOTSUPP => WSAEOPNOTSUPP,
            libc::EAFNOSUPPORT => WSAEAFNOSUPPORT,
            libc::EADDRINUSE => WSAEADDRINUSE,
            libc::EADDRNOTAVAIL => WSAEADDRNOTAVAIL,
            libc::ENETDOWN => WSAENETDOWN,
            libc::ENETUNREACH => WSAENETUNREACH,
            libc::ENETRESET => WSAENETRESET,
            libc::ECONNABORTED => WSAECONNABORTED,
            libc::ECONNRESET => WSAECONNRESET,
            libc::ENOBUFS | libc::ENOMEM => WSAENOBUFS,
            libc::EISCONN => WSAEISCONN,
            libc::ENOTCONN => WSAENOTCONN,
            libc::EPIPE | libc::ESHUTDOWN => WSAESHUTDOWN,
            libc::ETIMEDOUT => WSAETIMEDOUT,
            libc::ECONNREFUSED => WSAECONNREFUSED,
            libc::ELOOP => WSAELOOP,
            libc::EHOSTUNREACH => WSAEHOSTUNREACH,
            _ => WSASYSCALLFAILURE,
        })
    }
}
