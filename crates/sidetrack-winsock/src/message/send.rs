//! Sending datagrams.

use std::net::SocketAddr;

use super::sys::{self, ControlMessage};
use crate::abi::{DWORD, WSAMSG};
use crate::error::{WSAEINVAL, WinsockError, WinsockResult};
use crate::memory::MemoryRange;
use crate::{redirect_records, socket};

/// Sends one datagram. Records in its control data are set on the socket first. A context there is
/// an error, since it stays with the proxy (docs/wfp.md, 2.3).
pub(super) fn send(socket: i32, message: &WSAMSG, flags: i32) -> WinsockResult<DWORD> {
    let given = sys::read_control(MemoryRange::of(
        message.Control.buf,
        message.Control.len as usize,
    ))?;
    let mut forwarded = Vec::with_capacity(given.len() + 1);
    for item in given {
        match super::RedirectOption::of(item.level, item.kind) {
            Some(super::RedirectOption::Records) => {
                redirect_records::set(
                    socket,
                    MemoryRange::of(item.data.as_ptr(), item.data.len()),
                )?;
            }
            Some(super::RedirectOption::Context) => return Err(WinsockError(WSAEINVAL)),
            None => forwarded.push(item),
        }
    }
    let to = sys::read_name(message)?;
    forwarded.extend(source(socket, to, &forwarded));
    sys::send(socket, message, to, &forwarded, flags)
}

/// Packet info with the source address of an answer: that of the client's latest flow. `None` if
/// the destination is not the client of a flow, or if the program itself gave packet info.
fn source(socket: i32, to: Option<SocketAddr>, given: &[ControlMessage]) -> Option<ControlMessage> {
    let flow_table = socket::flow_table(socket)?;
    let from = flow_table.source_for(to?)?;
    let item = sys::packet_info(from);
    let is_same = |other: &ControlMessage| (other.level, other.kind) == (item.level, item.kind);
    (!given.iter().any(is_same)).then_some(item)
}
