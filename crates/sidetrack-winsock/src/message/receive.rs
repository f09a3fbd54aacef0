//! Receiving datagrams.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;

use sidetrack_abi::kernel::{self, Datagram, SOL_SIDETRACK};
use zerocopy::IntoBytes;

use super::sys::{self, ControlMessage};
use crate::abi::{DWORD, IP_WFP_REDIRECT_CONTEXT, IP_WFP_REDIRECT_RECORDS, WSAMSG};
use crate::attempt::{Attempt, AttemptError, Interest};
use crate::error::WinsockError;
use crate::flow_table::FlowTable;
use crate::memory::{CallerPointer, MemoryRange};
use crate::redirect_query::ANSWER_MAX;
use crate::socket;

/// One call of WSARecvMsg.
#[derive(Clone, Copy)]
pub(crate) struct ReceiveCall {
    pub(crate) socket: i32,
    pub(crate) message: CallerPointer<WSAMSG>,
    /// Whether the call is overlapped: it then never waits in the system call.
    pub(crate) overlapped: bool,
}

impl Attempt for ReceiveCall {
    /// Receives one datagram with its control data. Returns the length of the payload in bytes.
    fn attempt(&self) -> Result<DWORD, AttemptError> {
        let mut message = self.message.load();
        let flags = match self.overlapped {
            true => libc::MSG_DONTWAIT,
            false => 0,
        };
        let flags = message.dwFlags as i32 & libc::MSG_PEEK | flags;
        let received = match sys::receive(self.socket, &message, flags) {
            Err(WinsockError(crate::error::WSAEWOULDBLOCK)) if self.overlapped => {
                return Err(AttemptError::NotYet(Interest::Readable));
            }
            received => received.map_err(AttemptError::Final)?,
        };
        let mut items = Vec::new();
        if let Some(flow_table) = socket::flow_table(self.socket) {
            items = redirect_control_messages(self.socket, &flow_table, &received);
        }
        let mut out = sys::ControlWriter::new(MemoryRange::of(
            message.Control.buf,
            message.Control.len as usize,
        ));
        let complete = items.iter().all(|item| out.put(item));
        let rest_complete = received
            .control
            .iter()
            .all(|item| out.put(item) || is_packet_info(item));
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

/// Whether a control message is packet info. The library enabled it for its own use, so its loss is
/// not reported to the caller.
fn is_packet_info(item: &ControlMessage) -> bool {
    matches!(
        (item.level, item.kind),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
    )
}

/// The control messages with records and context, for the first datagram of a redirected flow.
fn redirect_control_messages(
    socket: i32,
    flow_table: &FlowTable,
    received: &sys::ReceivedMessage,
) -> Vec<ControlMessage> {
    let (Some(own), Some(from)) = (received.own, received.from) else {
        return Vec::new();
    };
    let level = match socket::is_ipv4(socket) {
        true => libc::IPPROTO_IP,
        false => libc::IPPROTO_IPV6,
    };
    let control_messages = flow_table.note_datagram(own, from, || {
        select_datagram(socket, own, from)?;
        let options = [
            (
                &flow_table.wants_records,
                kernel::RECORDS,
                IP_WFP_REDIRECT_RECORDS,
            ),
            (
                &flow_table.wants_context,
                kernel::CONTEXT,
                IP_WFP_REDIRECT_CONTEXT,
            ),
        ];
        let items = options
            .into_iter()
            .filter(|(wanted, ..)| wanted.load(Ordering::Relaxed));
        let items = items.filter_map(|(_, name, kind)| {
            let data = query_option(socket, name)?;
            Some(ControlMessage { level, kind, data })
        });
        Some(items.collect())
    });
    control_messages.unwrap_or_default()
}

/// Selects the datagram that the following queries are about. `None` if it was not redirected.
fn select_datagram(socket: i32, own: IpAddr, from: SocketAddr) -> Option<()> {
    let datagram = Datagram {
        flow_addr: to_address_bytes(own),
        client_addr: to_address_bytes(from.ip()),
        client_port: from.port().to_be_bytes(),
        reserved: [0; 3],
    };
    socket::set_value(socket, SOL_SIDETRACK, kernel::DATAGRAM, datagram.as_bytes()).ok()
}

/// Gets the option CONTEXT or RECORDS of the selected datagram. `None` if there is no answer.
fn query_option(socket: i32, name: i32) -> Option<Vec<u8>> {
    let mut buffer = vec![0; ANSWER_MAX];
    let address = buffer.as_mut_ptr().expose_provenance();
    let length = socket::get_option(socket, name, address, buffer.len()).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// An address as 16 bytes; an IPv4 address is IPv4-mapped.
fn to_address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}
