//! The entries.
#![allow(non_snake_case)] // the header's own names

use std::ffi::{c_char, c_void};

use super::Receive;
use super::send::send;
use crate::abi::{
    DWORD, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, SOCKET, SOCKET_ERROR, WSABUF, WSAMSG,
    WSAOVERLAPPED,
};
use crate::error::{Fault, Reply, WSAEFAULT};
use crate::memory::{self, Place};
use crate::overlapped::{Operation, Request};
use crate::question::{self, Refusal};
use crate::{call, socket};

/// Receives a datagram with its control data; a redirected flow's first one has IP_WFP_REDIRECT_RECORDS and …_CONTEXT, if
/// the socket's options of these names are set. Overlapped as WSAIoctl.
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
        let message = Place::at(lpMsg).ok_or(Fault(WSAEFAULT))?;
        let at_once = !lpOverlapped.is_null() && socket::is_overlapped(socket);
        let receive = Receive {
            socket,
            message,
            at_once,
        };
        if at_once {
            let count = count_if_any(lpdwNumberOfBytesRecvd)?;
            let request = Request::Receive(receive);
            return Operation::new(socket, request, lpOverlapped, lpCompletionRoutine, None)?
                .start(count);
        }
        let count = Place::at(lpdwNumberOfBytesRecvd).ok_or(Fault(WSAEFAULT))?;
        let received = receive.attempt().map_err(|refusal| match refusal {
            Refusal::Final(fault) => fault,
            Refusal::TooSmall(needed) => Fault(question::too_small(needed).0),
            Refusal::NotYet(_) => Fault(crate::error::WSAEWOULDBLOCK),
        });
        count.store(received?);
        Ok(())
    })
}

/// Sends a datagram. Control data IP_WFP_REDIRECT_RECORDS link the socket to the flow they came from, as
/// SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS does. An overlapped one is sent at once.
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
        let message = memory::load(lpMsg).ok_or(Fault(WSAEFAULT))?;
        let is_overlapped = !lpOverlapped.is_null() && socket::is_overlapped(socket);
        let count = count_if_any(lpNumberOfBytesSent)?;
        if !is_overlapped {
            let count = count.ok_or(Fault(WSAEFAULT))?;
            count.store(send(socket, &message, dwFlags as i32)?);
            return Ok(());
        }
        let mut operation = Operation::new(
            socket,
            Request::Done(0),
            lpOverlapped,
            lpCompletionRoutine,
            None,
        )?;
        operation.done(send(socket, &message, dwFlags as i32)?);
        operation.start(count)
    })
}

fn count_if_any(pointer: *mut DWORD) -> Reply<Option<Place<DWORD>>> {
    match pointer.is_null() {
        true => Ok(None),
        false => Place::at(pointer).map(Some).ok_or(Fault(WSAEFAULT)),
    }
}

/// sendto. An answer to a redirected client comes as from where that had sent to.
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
        let len = u32::try_from(len).map_err(|_| Fault(WSAEFAULT))?;
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
