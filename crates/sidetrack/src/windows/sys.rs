//! Windows system calls: the control codes, and datagrams with control data.

use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::windows::io::{AsRawSocket, AsSocket};
use std::ptr;
use std::sync::OnceLock;

use socket2::{SockAddr, SockAddrStorage};
use windows_sys::Win32::Networking::WinSock::{
    CMSGHDR, LPFN_WSARECVMSG, LPFN_WSASENDMSG, SIO_GET_EXTENSION_FUNCTION_POINTER, SOCKET, WSABUF,
    WSAGetLastError, WSAID_WSARECVMSG, WSAID_WSASENDMSG, WSAIoctl, WSAMSG, setsockopt,
};
use windows_sys::core::GUID;

use super::query::{QueryResult, WSAEOPNOTSUPP};

/// SIO_QUERY_WFP_CONNECTION_REDIRECT_RECORDS: `_WSAIOW(IOC_VENDOR, 220)` (docs/wfp.md, 1.1).
pub(super) const QUERY_RECORDS: u32 = 0x9800_00dc;
/// SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT: `_WSAIOW(IOC_VENDOR, 221)`.
pub(super) const QUERY_CONTEXT: u32 = 0x9800_00dd;
/// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS: `_WSAIOW(IOC_VENDOR, 222)`.
const SET_RECORDS: u32 = 0x9800_00de;
/// The same number at the levels IPPROTO_IP and IPPROTO_IPV6 (docs/wfp.md, 2.1).
pub(super) const IP_WFP_REDIRECT_RECORDS: i32 = 60;
/// The same number at the levels IPPROTO_IP and IPPROTO_IPV6 (docs/wfp.md, 2.1).
pub(super) const IP_WFP_REDIRECT_CONTEXT: i32 = 70;
const IPPROTO_IP: i32 = 0;
const IPPROTO_IPV6: i32 = 41;
/// Size of the buffer for control data in bytes: enough for records and a context.
const CONTROL_SIZE: usize = 8192;
const HEADER_SIZE: usize = size_of::<CMSGHDR>();

#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_SIZE]);

/// A received datagram, without its payload.
pub(super) struct ReceivedDatagram {
    pub(super) length: usize,
    pub(super) from: Option<SocketAddr>,
    /// Level, type and data of each control message.
    pub(super) control: Vec<(i32, i32, Box<[u8]>)>,
}

fn raw(socket: &impl AsSocket) -> SOCKET {
    socket.as_socket().as_raw_socket() as SOCKET
}

/// Issues one query synchronously.
pub(super) fn query(socket: &impl AsSocket, code: u32, buffer: &mut [u8]) -> QueryResult {
    let mut bytes = 0;
    // SAFETY: the buffer is writable for its length, `bytes` is a local variable; the socket is
    // open as it is borrowed.
    let result = unsafe {
        WSAIoctl(
            raw(socket),
            code,
            ptr::null(),
            0,
            buffer.as_mut_ptr().cast(),
            buffer.len() as u32,
            &raw mut bytes,
            ptr::null_mut(),
            None,
        )
    };
    answer(result, bytes)
}

/// Sets the records on a socket. Returns 0 or the error.
pub(super) fn set_records(socket: &impl AsSocket, records: &[u8]) -> i32 {
    let mut bytes = 0;
    // SAFETY: the records are readable for their length; `bytes` is a local variable; the socket is
    // open as it is borrowed.
    let result = unsafe {
        WSAIoctl(
            raw(socket),
            SET_RECORDS,
            records.as_ptr().cast(),
            records.len() as u32,
            ptr::null_mut(),
            0,
            &raw mut bytes,
            ptr::null_mut(),
            None,
        )
    };
    answer(result, bytes).error
}

fn answer(result: i32, bytes: u32) -> QueryResult {
    QueryResult {
        error: match result {
            0 => 0,
            _ => last_error(),
        },
        bytes: bytes as usize,
    }
}

fn last_error() -> i32 {
    // SAFETY: the call has no arguments.
    unsafe { WSAGetLastError() }
}

/// Enables the delivery of control data with redirected datagrams. Returns 0 or the first error.
pub(super) fn enable_control_data(socket: &UdpSocket, is_v4: bool) -> i32 {
    let level = if is_v4 { IPPROTO_IP } else { IPPROTO_IPV6 };
    let one = 1_u32.to_ne_bytes();
    for option in [IP_WFP_REDIRECT_RECORDS, IP_WFP_REDIRECT_CONTEXT] {
        // SAFETY: the value has four bytes; the socket is open as it is borrowed.
        let result =
            unsafe { setsockopt(raw(socket), level, option, one.as_ptr(), one.len() as i32) };
        if result != 0 {
            return last_error();
        }
    }
    0
}

/// Receives a datagram with its control data. Returns the error of the call if it fails.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<ReceivedDatagram, i32> {
    let function = receive_function(socket)?;
    let mut name = SockAddrStorage::zeroed();
    let mut control = ControlBuffer([0; CONTROL_SIZE]);
    let mut part = WSABUF {
        len: buffer.len() as u32,
        buf: buffer.as_mut_ptr(),
    };
    let mut message = WSAMSG {
        name: (&raw mut name).cast(),
        namelen: name.size_of(),
        lpBuffers: &raw mut part,
        dwBufferCount: 1,
        Control: WSABUF {
            len: CONTROL_SIZE as u32,
            buf: control.0.as_mut_ptr(),
        },
        dwFlags: 0,
    };
    let mut length = 0;
    // SAFETY: name, part and control data are as long as the message says, and outlive the call,
    // which is synchronous.
    let result = unsafe {
        function(
            raw(socket),
            &raw mut message,
            &raw mut length,
            ptr::null_mut(),
            None,
        )
    };
    if result != 0 {
        return Err(last_error());
    }
    // SAFETY: the system has written the sender's address, of this length, to `name`.
    let from = unsafe { SockAddr::new(name, message.namelen) }.as_socket();
    let control = control_messages(&control.0[..(message.Control.len as usize).min(CONTROL_SIZE)]);
    Ok(ReceivedDatagram {
        length: length as usize,
        from,
        control,
    })
}

/// Sends a datagram, with redirect records if `records` is not empty. Returns the number of bytes,
/// or the error.
pub(super) fn send(
    socket: &UdpSocket,
    payload: &[u8],
    to: SocketAddr,
    records: &[u8],
) -> Result<usize, i32> {
    let function = send_function(socket)?;
    let name = SockAddr::from(to);
    let level = if to.is_ipv4() {
        IPPROTO_IP
    } else {
        IPPROTO_IPV6
    };
    let mut control = control_message(level, IP_WFP_REDIRECT_RECORDS, records);
    let mut part = WSABUF {
        len: payload.len() as u32,
        buf: payload.as_ptr().cast_mut(),
    };
    let message = WSAMSG {
        name: name.as_ptr().cast_mut().cast(),
        namelen: name.len(),
        lpBuffers: &raw mut part,
        dwBufferCount: 1,
        Control: WSABUF {
            len: (control.len() * size_of::<u64>()) as u32,
            buf: control.as_mut_ptr().cast(),
        },
        dwFlags: 0,
    };
    let mut sent = 0;
    // SAFETY: name, part and control data are as long as the message says, and outlive the call,
    // which is synchronous and writes to none of them.
    let result = unsafe {
        function(
            raw(socket),
            &raw const message,
            0,
            &raw mut sent,
            ptr::null_mut(),
            None,
        )
    };
    match result {
        0 => Ok(sent as usize),
        _ => Err(last_error()),
    }
}

/// Splits a buffer of control data into its messages. An incomplete message at the end is dropped.
fn control_messages(mut bytes: &[u8]) -> Vec<(i32, i32, Box<[u8]>)> {
    let mut items = Vec::new();
    while bytes.len() >= HEADER_SIZE {
        // SAFETY: there are that many bytes, and a header has only integers.
        let header: CMSGHDR = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
        if header.cmsg_len < HEADER_SIZE || header.cmsg_len > bytes.len() {
            break;
        }
        items.push((
            header.cmsg_level,
            header.cmsg_type,
            bytes[HEADER_SIZE..header.cmsg_len].into(),
        ));
        bytes = bytes
            .get(header.cmsg_len.next_multiple_of(8)..)
            .unwrap_or(&[]);
    }
    items
}

/// Builds one control message, in words so that it is aligned. Empty if `data` is empty.
fn control_message(level: i32, kind: i32, data: &[u8]) -> Vec<u64> {
    if data.is_empty() {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(HEADER_SIZE + data.len() + 8);
    bytes.extend((HEADER_SIZE + data.len()).to_ne_bytes());
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
        .collect()
}

type Receive = unsafe extern "system" fn(
    SOCKET,
    *mut WSAMSG,
    *mut u32,
    *mut windows_sys::Win32::System::IO::OVERLAPPED,
    windows_sys::Win32::Networking::WinSock::LPWSAOVERLAPPED_COMPLETION_ROUTINE,
) -> i32;
type Send = unsafe extern "system" fn(
    SOCKET,
    *const WSAMSG,
    u32,
    *mut u32,
    *mut windows_sys::Win32::System::IO::OVERLAPPED,
    windows_sys::Win32::Networking::WinSock::LPWSAOVERLAPPED_COMPLETION_ROUTINE,
) -> i32;

fn receive_function(socket: &UdpSocket) -> Result<Receive, i32> {
    static FUNCTION: OnceLock<Receive> = OnceLock::new();
    if let Some(function) = FUNCTION.get() {
        return Ok(*function);
    }
    let found: LPFN_WSARECVMSG = extension(socket, &WSAID_WSARECVMSG)?;
    // SAFETY: it is the same function type except for the constness of its first pointer and the
    // name of its callback type.
    let found = found.map(|found| unsafe { mem::transmute::<_, Receive>(found) });
    found
        .map(|found| *FUNCTION.get_or_init(|| found))
        .ok_or(WSAEOPNOTSUPP)
}

fn send_function(socket: &UdpSocket) -> Result<Send, i32> {
    static FUNCTION: OnceLock<Send> = OnceLock::new();
    if let Some(function) = FUNCTION.get() {
        return Ok(*function);
    }
    let found: LPFN_WSASENDMSG = extension(socket, &WSAID_WSASENDMSG)?;
    // SAFETY: as in `receive_function`.
    let found = found.map(|found| unsafe { mem::transmute::<_, Send>(found) });
    found
        .map(|found| *FUNCTION.get_or_init(|| found))
        .ok_or(WSAEOPNOTSUPP)
}

/// Gets a function of the socket's provider by its GUID. `F` is an optional function pointer.
fn extension<F: Default>(socket: &UdpSocket, id: &GUID) -> Result<F, i32> {
    let mut function = F::default();
    let mut bytes = 0;
    // SAFETY: the id is readable, and `function` is writable for its size: the provider writes one
    // pointer.
    let result = unsafe {
        WSAIoctl(
            raw(socket),
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            ptr::from_ref(id).cast(),
            size_of::<GUID>() as u32,
            (&raw mut function).cast(),
            size_of::<F>() as u32,
            &raw mut bytes,
            ptr::null_mut(),
            None,
        )
    };
    match result {
        0 => Ok(function),
        _ => Err(last_error()),
    }
}
