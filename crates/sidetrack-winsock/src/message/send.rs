//! Sending.

use std::net::SocketAddr;

use super::sys::{self, ControlItem};
use crate::abi::{DWORD, WSAMSG};
use crate::error::{Fault, Reply, WSAEINVAL};
use crate::memory::Span;
use crate::{ioctl, socket};

/// One datagram: its records, if any, link the socket first. The context stays with the proxy (spec 2.3).
pub(super) fn send(socket: i32, message: &WSAMSG, flags: i32) -> Reply<DWORD> {
    let given = sys::read_control(Span::of(message.Control.buf, message.Control.len as usize))?;
    let mut passed = Vec::with_capacity(given.len() + 1);
    for item in given {
        match super::Wanted::of(item.level, item.kind) {
            Some(super::Wanted::Records) => {
                ioctl::set_records(socket, Span::of(item.data.as_ptr(), item.data.len()))?;
            }
            Some(super::Wanted::Context) => return Err(Fault(WSAEINVAL)),
            None => passed.push(item),
        }
    }
    let to = sys::read_name(message)?;
    passed.extend(source(socket, to, &passed));
    sys::send(socket, message, to, &passed, flags)
}

/// An answer to a redirected client leaves from its flow's address, unless the program says otherwise.
fn source(socket: i32, to: Option<SocketAddr>, given: &[ControlItem]) -> Option<ControlItem> {
    let sessions = socket::sessions(socket)?;
    let from = sessions.source_for(to?)?;
    let item = sys::source_item(from);
    let is_same = |other: &ControlItem| (other.level, other.kind) == (item.level, item.kind);
    (!given.iter().any(is_same)).then_some(item)
}
