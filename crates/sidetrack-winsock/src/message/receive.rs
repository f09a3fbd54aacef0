//! Receiving.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;

use sidetrack_abi::kernel::{self, Datagram, SOL_SIDETRACK};
use zerocopy::IntoBytes;

use super::Sessions;
use super::sys::{self, ControlItem};
use crate::abi::{DWORD, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS, WSAMSG};
use crate::error::Fault;
use crate::memory::{Place, Span};
use crate::question::{ANSWER_MAX, Interest, Refusal};
use crate::socket;

/// One WSARecvMsg.
#[derive(Clone, Copy)]
pub(crate) struct Receive {
    pub(crate) socket: i32,
    pub(crate) message: Place<WSAMSG>,
    /// An overlapped one.
    pub(crate) at_once: bool,
}

impl Receive {
    /// Receives one datagram, with its control data. Bytes of the payload.
    pub(crate) fn attempt(&self) -> Result<DWORD, Refusal> {
        let mut message = self.message.load();
        let flags = match self.at_once {
            true => libc::MSG_DONTWAIT,
            false => 0,
        };
        let flags = message.dwFlags as i32 & libc::MSG_PEEK | flags;
        let received = match sys::receive(self.socket, &message, flags) {
            Err(Fault(crate::error::WSAEWOULDBLOCK)) if self.at_once => {
                return Err(Refusal::NotYet(Interest::Readable));
            }
            received => received.map_err(Refusal::Final)?,
        };
        let mut items = Vec::new();
        if let Some(sessions) = socket::sessions(self.socket) {
            items = redirect_items(self.socket, &sessions, &received);
        }
        let mut out =
            sys::ControlWriter::new(Span::of(message.Control.buf, message.Control.len as usize));
        let complete = items.iter().all(|item| out.put(item));
        let rest_complete = received
            .control
            .iter()
            .all(|item| out.put(item) || is_own_address(item));
        message.dwFlags = received.flags as u32;
        if !complete || !rest_complete {
            message.dwFlags |= libc::MSG_CTRUNC as u32;
        }
        message.Control.len = out.written() as u32;
        message.namelen = received.name_length as i32;
        self.message.store(message);
        Ok(received.length as DWORD)
    }
}

/// That the library has asked for it is no reason to tell of its loss.
fn is_own_address(item: &ControlItem) -> bool {
    matches!(
        (item.level, item.kind),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
    )
}

/// What a flow's first datagram brings.
fn redirect_items(socket: i32, sessions: &Sessions, received: &sys::Received) -> Vec<ControlItem> {
    let (Some(own), Some(from)) = (received.own, received.from) else {
        return Vec::new();
    };
    let level = match socket::local_is_v4(socket) {
        true => libc::IPPROTO_IP,
        false => libc::IPPROTO_IPV6,
    };
    let asked = sessions.seen(own, from, || {
        select(socket, own, from)?;
        let wanted = [
            (
                &sessions.wants_records,
                kernel::RECORDS,
                IP_WFP_REDIRECT_RECORDS,
            ),
            (
                &sessions.wants_context,
                kernel::CONTEXT,
                IP_WFP_REDIRECT_CONTEXT,
            ),
        ];
        let items = wanted
            .into_iter()
            .filter(|(wanted, ..)| wanted.load(Ordering::Relaxed));
        let items = items.filter_map(|(_, name, kind)| {
            let data = option(socket, name)?;
            Some(ControlItem { level, kind, data })
        });
        Some(items.collect())
    });
    asked.unwrap_or_default()
}

/// Says which datagram the next questions are about. `None` if it was not redirected.
fn select(socket: i32, own: IpAddr, from: SocketAddr) -> Option<()> {
    let datagram = Datagram {
        flow_addr: wide(own),
        client_addr: wide(from.ip()),
        client_port: from.port().to_be_bytes(),
        reserved: [0; 3],
    };
    socket::set_value(socket, SOL_SIDETRACK, kernel::DATAGRAM, datagram.as_bytes()).ok()
}

fn option(socket: i32, name: i32) -> Option<Vec<u8>> {
    let mut buffer = vec![0; ANSWER_MAX];
    let address = buffer.as_mut_ptr().expose_provenance();
    let length = socket::get_option(socket, name, address, buffer.len()).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}
