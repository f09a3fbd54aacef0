//! Types and constants with the names and values of the Windows headers (docs/wfp.md, 1.1, 2.1, 5
//! and 6).
#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use std::ffi::{c_char, c_void};

/// An unsigned integer of 32 bits.
pub type DWORD = u32;
/// A signed integer of 32 bits.
pub type INT = i32;
/// An unsigned integer of 32 bits, as on Windows.
pub type ULONG = u32;
/// An unsigned integer of 16 bits.
pub type WORD = u16;
/// A truth value: 0 is false, any other value is true.
pub type BOOL = i32;
/// An unsigned integer as wide as a pointer.
pub type ULONG_PTR = usize;
/// An unsigned integer as wide as a pointer.
pub type DWORD_PTR = usize;
/// A socket: a plain descriptor. As wide as a pointer, as on Windows.
pub type SOCKET = usize;
/// A handle of an event or a thread. It is not a descriptor.
pub type HANDLE = *mut c_void;
/// A handle of an event object. An event stays set until it is reset.
pub type WSAEVENT = HANDLE;

/// True, as a BOOL.
pub const TRUE: BOOL = 1;
/// False, as a BOOL.
pub const FALSE: BOOL = 0;
/// What most functions return on failure.
pub const SOCKET_ERROR: INT = -1;
/// A time-out that never expires.
pub const WSA_INFINITE: DWORD = 0xffff_ffff;
/// WSAWaitForMultipleEvents: the first event is set.
pub const WSA_WAIT_EVENT_0: DWORD = 0;
/// WSAWaitForMultipleEvents, SleepEx: a completion routine or another APC has run.
pub const WSA_WAIT_IO_COMPLETION: DWORD = 0xc0;
/// WSAWaitForMultipleEvents: the time-out has expired.
pub const WSA_WAIT_TIMEOUT: DWORD = 258;
/// WSAWaitForMultipleEvents: the call has failed; see WSAGetLastError.
pub const WSA_WAIT_FAILED: DWORD = 0xffff_ffff;
/// Largest number of events for one WSAWaitForMultipleEvents.
pub const WSA_MAXIMUM_WAIT_EVENTS: DWORD = 64;

/// WSASocket: the socket has the overlapped attribute.
pub const WSA_FLAG_OVERLAPPED: DWORD = 0x01;
/// WSASocket: the descriptor is closed on exec.
pub const WSA_FLAG_NO_HANDLE_INHERIT: DWORD = 0x80;

/// Direction bit of a control code: input.
pub const IOC_IN: DWORD = 0x8000_0000;
/// Direction bit of a control code: output.
pub const IOC_OUT: DWORD = 0x4000_0000;
/// Type bits of a control code: vendor-specific.
pub const IOC_VENDOR: DWORD = 0x1800_0000;
/// Queries the redirect records of a redirected connection: an opaque token, here of 32 bytes.
pub const SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS: DWORD = 0x9800_00dc;
/// Queries the redirect context of a redirected connection.
pub const SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT: DWORD = 0x9800_00dd;
/// Sets the redirect records on a new outgoing socket, before connect.
pub const SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS: DWORD = 0x9800_00de;
/// Aborts the pending operations of the socket.
pub const SIO_FLUSH: DWORD = 0x2800_0004;
/// Gets the address of WSARecvMsg or WSASendMsg.
pub const SIO_GET_EXTENSION_FUNCTION_POINTER: DWORD = 0xc800_0006;

/// Socket option and type of control data: the redirect records of datagrams. The same number at
/// IPPROTO_IPV6.
pub const IP_WFP_REDIRECT_RECORDS: INT = 60;
/// Socket option and type of control data: the redirect context of datagrams. The same number at
/// IPPROTO_IPV6.
pub const IP_WFP_REDIRECT_CONTEXT: INT = 70;

/// Reading R1 of the contradictory documentation (docs/wfp.md, 1.6), the default: a buffer that is
/// too small gives ERROR_INSUFFICIENT_BUFFER and the needed size.
pub const SIDETRACK_READING_R1: INT = 1;
/// Reading R2: a buffer that is too small gives WSAEINVAL and the size 0.
pub const SIDETRACK_READING_R2: INT = 2;
/// Reading R3: a buffer that is too small gives WSAEFAULT and the needed size.
pub const SIDETRACK_READING_R3: INT = 3;

/// An overlapped operation. The structure and the operation's buffers must exist until the
/// operation has completed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSAOVERLAPPED {
    /// 259 while the operation is pending, then the operation's error, or 0. Set by the library.
    pub Internal: ULONG_PTR,
    /// Number of bytes transferred. Set by the library.
    pub InternalHigh: ULONG_PTR,
    /// Not used; free for the application.
    pub Offset: DWORD,
    /// Not used; free for the application.
    pub OffsetHigh: DWORD,
    /// An event of WSACreateEvent, or NULL. Free for the application if there is a completion
    /// routine.
    pub hEvent: HANDLE,
}

/// A completion routine. It runs on the thread that started the operation, when that thread is in
/// an alertable wait. Its arguments are the error, the number of bytes, the operation, and flags
/// (0).
pub type LPWSAOVERLAPPED_COMPLETION_ROUTINE = Option<
    extern "C" fn(
        dwError: DWORD,
        cbTransferred: DWORD,
        lpOverlapped: *mut WSAOVERLAPPED,
        dwFlags: DWORD,
    ),
>;

/// The function that WPUQueueApc queues.
pub type LPWSAUSERAPC = Option<extern "C" fn(dwContext: DWORD_PTR)>;

/// A function that is called repeatedly while a call waits. Its return value is ignored.
pub type SIDETRACK_BLOCKING_HOOK = Option<extern "C" fn() -> INT>;

/// The id of a thread for a service provider.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSATHREADID {
    /// The handle, set by WPUOpenCurrentThread.
    pub ThreadHandle: HANDLE,
    /// Always 0.
    pub Reserved: DWORD_PTR,
}

/// One part of a message: a buffer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSABUF {
    /// Length in bytes.
    pub len: ULONG,
    /// Address of the first byte.
    pub buf: *mut c_char,
}

/// A datagram with its address and its control data.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSAMSG {
    /// The socket address of the sender or the destination.
    pub name: *mut c_void,
    /// Length of that address in bytes.
    pub namelen: INT,
    /// The parts of the payload.
    pub lpBuffers: *mut WSABUF,
    /// Number of parts, at most 1,024.
    pub dwBufferCount: ULONG,
    /// Control data: a sequence of WSACMSGHDR with their data.
    pub Control: WSABUF,
    /// MSG_TRUNC and MSG_CTRUNC, set by WSARecvMsg.
    pub dwFlags: ULONG,
}

/// The version that WSAStartup negotiated, and a description of the library.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSADATA {
    /// The version to be used: the requested one, at most 2.2.
    pub wVersion: WORD,
    /// The highest supported version: 2.2.
    pub wHighVersion: WORD,
    /// Not used since version 2.
    pub iMaxSockets: u16,
    /// Not used since version 2.
    pub iMaxUdpDg: u16,
    /// Not used since version 2.
    pub lpVendorInfo: *mut c_char,
    /// Description of the library, for people.
    pub szDescription: [c_char; 257],
    /// Status of the library, for people.
    pub szSystemStatus: [c_char; 129],
}

/// The 16 bytes that identify an extension function.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct GUID {
    /// Bytes 0 to 3, as an integer.
    pub Data1: u32,
    /// Bytes 4 and 5, as an integer.
    pub Data2: u16,
    /// Bytes 6 and 7, as an integer.
    pub Data3: u16,
    /// Bytes 8 to 15.
    pub Data4: [u8; 8],
}
