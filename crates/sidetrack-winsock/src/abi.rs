//! Types and constants under the names and with the values that Windows headers give them (spec 1.1, 2.1, 5, 6).
#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use std::ffi::{c_char, c_void};

/// 32 bits.
pub type DWORD = u32;
/// 32 bits.
pub type INT = i32;
/// 32 bits, as on Windows.
pub type ULONG = u32;
/// 16 bits.
pub type WORD = u16;
/// 0 or not.
pub type BOOL = i32;
/// As wide as a pointer.
pub type ULONG_PTR = usize;
/// As wide as a pointer.
pub type DWORD_PTR = usize;
/// A plain descriptor. As wide as a pointer, as on Windows.
pub type SOCKET = usize;
/// An event or a thread; not a descriptor.
pub type HANDLE = *mut c_void;
/// An event object; it stays set until it is reset.
pub type WSAEVENT = HANDLE;

/// True.
pub const TRUE: BOOL = 1;
/// False.
pub const FALSE: BOOL = 0;
/// What most calls return when they fail.
pub const SOCKET_ERROR: INT = -1;
/// Waits for ever.
pub const WSA_INFINITE: DWORD = 0xffff_ffff;
/// The first event was set.
pub const WSA_WAIT_EVENT_0: DWORD = 0;
/// A completion routine or another APC ran.
pub const WSA_WAIT_IO_COMPLETION: DWORD = 0xc0;
/// The time was over.
pub const WSA_WAIT_TIMEOUT: DWORD = 258;
/// See WSAGetLastError.
pub const WSA_WAIT_FAILED: DWORD = 0xffff_ffff;
/// Events that one call waits for.
pub const WSA_MAXIMUM_WAIT_EVENTS: DWORD = 64;

/// WSASocket: the socket has the overlapped attribute.
pub const WSA_FLAG_OVERLAPPED: DWORD = 0x01;
/// WSASocket: close on exec.
pub const WSA_FLAG_NO_HANDLE_INHERIT: DWORD = 0x80;

/// Direction bit: input.
pub const IOC_IN: DWORD = 0x8000_0000;
/// Direction bit: output.
pub const IOC_OUT: DWORD = 0x4000_0000;
/// The code is a vendor's.
pub const IOC_VENDOR: DWORD = 0x1800_0000;
/// The redirect records of a redirected connection: an opaque token of 32 bytes here.
pub const SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS: DWORD = 0x9800_00dc;
/// The redirect context of a redirected connection.
pub const SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT: DWORD = 0x9800_00dd;
/// Sets the records on a new outbound socket, before connect.
pub const SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS: DWORD = 0x9800_00de;
/// Aborts what is pending on the socket.
pub const SIO_FLUSH: DWORD = 0x2800_0004;
/// Gives the address of WSARecvMsg or WSASendMsg.
pub const SIO_GET_EXTENSION_FUNCTION_POINTER: DWORD = 0xc800_0006;

/// Option and control data of datagrams: their redirect records. The same number at IPPROTO_IPV6.
pub const IP_WFP_REDIRECT_RECORDS: INT = 60;
/// Option and control data of datagrams: their redirect context. The same number at IPPROTO_IPV6.
pub const IP_WFP_REDIRECT_CONTEXT: INT = 70;

/// Reading R1 of the pages' contradiction: ERROR_INSUFFICIENT_BUFFER, and the needed size. The default.
pub const SIDETRACK_READING_R1: INT = 1;
/// Reading R2: WSAEINVAL, and 0.
pub const SIDETRACK_READING_R2: INT = 2;
/// Reading R3: WSAEFAULT, and the needed size.
pub const SIDETRACK_READING_R3: INT = 3;

/// An overlapped operation. It and its buffers must stay until it has completed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSAOVERLAPPED {
    /// 259 while pending, then the operation's error, or 0.
    pub Internal: ULONG_PTR,
    /// Bytes.
    pub InternalHigh: ULONG_PTR,
    /// The application's.
    pub Offset: DWORD,
    /// The application's.
    pub OffsetHigh: DWORD,
    /// An event, or NULL. The application's own if there is a completion routine.
    pub hEvent: HANDLE,
}

/// Runs on the thread that issued the operation, in an alertable wait: error, bytes, operation, flags.
pub type LPWSAOVERLAPPED_COMPLETION_ROUTINE = Option<
    extern "C" fn(
        dwError: DWORD,
        cbTransferred: DWORD,
        lpOverlapped: *mut WSAOVERLAPPED,
        dwFlags: DWORD,
    ),
>;

/// What WPUQueueApc queues.
pub type LPWSAUSERAPC = Option<extern "C" fn(dwContext: DWORD_PTR)>;

/// Called while a call waits; what it returns is not looked at.
pub type SIDETRACK_BLOCKING_HOOK = Option<extern "C" fn() -> INT>;

/// A thread, as a provider knows it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSATHREADID {
    /// From WPUOpenCurrentThread.
    pub ThreadHandle: HANDLE,
    /// Zero.
    pub Reserved: DWORD_PTR,
}

/// One part of a message.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSABUF {
    /// Bytes.
    pub len: ULONG,
    /// Where.
    pub buf: *mut c_char,
}

/// A datagram with its address and control data.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSAMSG {
    /// A socket address.
    pub name: *mut c_void,
    /// Its bytes.
    pub namelen: INT,
    /// The payload's parts.
    pub lpBuffers: *mut WSABUF,
    /// How many; at most 1,024.
    pub dwBufferCount: ULONG,
    /// Control data.
    pub Control: WSABUF,
    /// MSG_TRUNC, MSG_CTRUNC.
    pub dwFlags: ULONG,
}

/// What WSAStartup tells.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WSADATA {
    /// The version to be used: 2.2 or what was asked for.
    pub wVersion: WORD,
    /// 2.2.
    pub wHighVersion: WORD,
    /// Not used since version 2.
    pub iMaxSockets: u16,
    /// Not used since version 2.
    pub iMaxUdpDg: u16,
    /// Not used since version 2.
    pub lpVendorInfo: *mut c_char,
    /// For people.
    pub szDescription: [c_char; 257],
    /// For people.
    pub szSystemStatus: [c_char; 129],
}

/// Sixteen bytes that name a function.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct GUID {
    /// The first group.
    pub Data1: u32,
    /// The second.
    pub Data2: u16,
    /// The third.
    pub Data3: u16,
    /// The rest.
    pub Data4: [u8; 8],
}
