//! The C functions for datagrams.
#![allow(non_snake_case)] // the names are those of the Windows headers

use std::ffi::{c_char, c_void};

use super::receive::ReceiveCall;
use super::send::send;
use crate::abi::{
    DWORD, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SOCKET, SOCKET_ERROR, WSABUF, WSAMSG,
    WSAOVERLAPPED,
};
use crate::attempt::{Attempt, AttemptError, Done};
use crate::error::{WSAEFAULT, WinsockError, WinsockResult};
use crate::memory::{self, CallerPointer};
use crate::overlapped::Operation;
use crate::{call, reading, socket, thread};

/// Receives a datagram with its control data. The first datagram of a redirected flow has
/// IP_WFP_REDIRECT_RECORDS and IP_WFP_REDIRECT_CONTEXT, if the socket has the options of these
/// names. Can be overlapped, as WSAIoctl.
#[unsafe(no_mangle)]
pub extern "C" fn WSARecvMsg(
    s: SOCKET,
    lpMsg: *mut WSAMSG,
    lpdwNumberOfBytesRecvd: *mut DWORD,
    lpOverlapped: *mut WSAOVERLAPPED,
    lpCompletionRoutine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
) -> INT {
    call::status(|| {
        let socket = socket::checked(s)?;
        let message = CallerPointer::new(lpMsg).ok_or(WinsockError(WSAEFAULT))?;
        let is_overlapped = !lpOverlapped.is_null() && socket::is_overlapped(socket);
        let receive = ReceiveCall {
            socket,
            message,
            overlapped: is_overlapped,
        };
        if is_overlapped {
            let count = optional_count(lpdwNumberOfBytesRecvd)?;
            let operation =
                Operation::new(socket, lpOverlapped, lpCompletionRoutine, thread::own_queue)?;
            return operation.start(receive, count);
        }
        let count = CallerPointer::new(lpdwNumberOfBytesRecvd).ok_or(WinsockError(WSAEFAULT))?;
        let received = receive.attempt().map_err(|error| match error {
            AttemptError::Final(error) => error,
            AttemptError::TooSmall(needed) => WinsockError(reading::too_small(needed).0),
            AttemptError::NotYet(_) => WinsockError(crate::error::WSAEWOULDBLOCK),
        });
        count.store(received?);
        Ok(())
    })
}

/// Sends a datagram. Control data IP_WFP_REDIRECT_RECORDS sets the records on the socket first, as
/// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS does. An overlapped call completes immediately.
#[unsafe(no_mangle)]
pub extern "C" fn WSASendMsg(
    s: SOCKET,
    lpMsg: *mut WSAMSG,
    dwFlags: DWORD,
    lpNumberOfBytesSent: *mut DWORD,
    lpOverlapped: *mut WSAOVERLAPPED,
    lpCompletionRoutine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
) -> INT {
    call::status(|| {
        let socket = socket::checked(s)?;
        let message = memory::read(lpMsg).ok_or(WinsockError(WSAEFAULT))?;
        let is_overlapped = !lpOverlapped.is_null() && socket::is_overlapped(socket);
        let count = optional_count(lpNumberOfBytesSent)?;
        if !is_overlapped {
            let count = count.ok_or(WinsockError(WSAEFAULT))?;
            count.store(send(socket, &message, dwFlags as i32)?);
            return Ok(());
        }
        let operation =
            Operation::new(socket, lpOverlapped, lpCompletionRoutine, thread::own_queue)?;
        let sent = send(socket, &message, dwFlags as i32)?;
        operation.start(Done(sent), count)
    })
}

/// Where the caller of an overlapped call wants the number of bytes; it may be NULL.
fn optional_count(pointer: *mut DWORD) -> WinsockResult<Option<CallerPointer<DWORD>>> {
    match pointer.is_null() {
        true => Ok(None),
        false => CallerPointer::new(pointer)
            .map(Some)
            .ok_or(WinsockError(WSAEFAULT)),
    }
}

/// The sendto of Winsock. A redirected client receives an answer from the address to which it sent.
#[unsafe(no_mangle)]
pub extern "C" fn sidetrack_sendto(
    s: SOCKET,
    buf: *const c_char,
    len: INT,
    flags: INT,
    to: *const c_void,
    tolen: INT,
) -> INT {
    call::value(SOCKET_ERROR, || {
        let socket = socket::checked(s)?;
        let len = u32::try_from(len).map_err(|_| WinsockError(WSAEFAULT))?;
        let mut part = WSABUF {
            len,
            buf: buf.cast_mut(),
        };
        let message = WSAMSG {
            name: to.cast_mut(),
            namelen: tolen,
            lpBuffers: &raw mut part,
            dwBufferCount: 1,
            Control: WSABUF {
                len: 0,
                buf: std::ptr::null_mut(),
            },
            dwFlags: 0,
        };
        send(socket, &message, flags).map(|sent| sent as INT)
    })
}
