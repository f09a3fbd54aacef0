//! The notices of one service: its ring buffer, the flows that it is about, and the senders.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use sidetrack_abi::kernel::{self, NOTICE_GONE, NOTICE_SYN, NOTICES_SIZE};
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{Refusal, Syn};
use super::ring::{Mapping, Ring};
use super::table::{OnAccept, OnGone, OnSyn, Table};
use crate::Error;
use crate::datagram::RAW;

/// A service's ring buffer and senders, and the flows of which it has had notices.
pub(crate) struct Notices {
    ring: OwnedFd,
    sender4: Socket,
    sender6: Option<Socket>,
    unread: Mutex<Unread>,
}

struct Unread {
    ring: Ring<Mapping>,
    table: Table,
}

/// A notice that concerns the proxy.
#[allow(clippy::large_enum_variant)] // it is taken apart at once
pub(crate) enum Noticed {
    /// A new flow, which is in the table as held.
    Syn(kernel::Notice, Syn),
    /// The client of a held or completed flow is gone.
    Gone(u64),
}

impl Notices {
    /// Takes a service's ring buffer and its senders. Fails if they are something else.
    pub(crate) fn new(
        ring: OwnedFd,
        sender4: OwnedFd,
        sender6: Option<OwnedFd>,
    ) -> io::Result<Self> {
        check_anonymous(&ring)?;
        let unread = Unread {
            ring: Ring::new(Mapping::new(ring.as_fd(), NOTICES_SIZE as usize)?),
            table: Table::default(),
        };
        Ok(Self {
            ring,
            sender4: sender(sender4, Domain::IPV4)?,
            sender6: sender6.map(|one| sender(one, Domain::IPV6)).transpose()?,
            unread: Mutex::new(unread),
        })
    }

    pub(crate) fn ring(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Whether connects of this family can be pended.
    pub(crate) fn has_sender(&self, is_ipv4: bool) -> bool {
        is_ipv4 || self.sender6.is_some()
    }

    /// Reads notices up to one that concerns the proxy, or until there is none.
    pub(crate) fn next(&self) -> Result<Option<Noticed>, Error> {
        loop {
            let mut guard = self.lock();
            let now = Instant::now();
            let Unread { ring, table } = &mut *guard;
            table.expire(now, |position| ring.has_read(position));
            let Some(notice) = ring.next().map_err(|_| Error::DamagedNotices)? else {
                return Ok(None);
            };
            let flow_id = notice.records.flow_id;
            match notice.kind {
                NOTICE_SYN => {
                    let syn = Syn::of(&notice).ok_or(Error::DamagedNotices)?;
                    match table.on_syn(flow_id, now) {
                        OnSyn::Deliver => return Ok(Some(Noticed::Syn(notice, syn))),
                        OnSyn::Ignore => {}
                        OnSyn::Refuse(refusal) => {
                            drop(guard);
                            self.send_refusal(&syn, refusal);
                        }
                    }
                }
                NOTICE_GONE => match table.on_gone(flow_id) {
                    OnGone::Held(waiting) => {
                        drop(guard);
                        waiting.into_iter().for_each(Waker::wake);
                        return Ok(Some(Noticed::Gone(flow_id)));
                    }
                    OnGone::Completed => return Ok(Some(Noticed::Gone(flow_id))),
                    OnGone::Unknown => {}
                },
                _ => return Err(Error::DamagedNotices),
            }
        }
    }

    pub(crate) fn on_accept(&self, flow_id: u64) -> OnAccept {
        let mut guard = self.lock();
        let written = guard.ring.written();
        guard.table.on_accept(flow_id, written, Instant::now())
    }

    pub(super) fn with_table<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.lock().table)
    }

    fn lock(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the client's SYN again. If the packet is lost, the client itself sends it again.
    pub(super) fn send_syn(&self, syn: &Syn) {
        if let Ok(packet) = syn.packet() {
            let _ = self.send(&packet, syn.target());
        }
    }

    /// Sends a refusal to the client. If the packet is lost, the next notice of the flow has it sent
    /// again.
    pub(super) fn send_refusal(&self, syn: &Syn, refusal: Refusal) {
        if let Ok(Some(packet)) = syn.refusal(refusal) {
            let _ = self.send(&packet, syn.client());
        }
    }

    fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let sender = if to.is_ipv4() {
            Some(&self.sender4)
        } else {
            self.sender6.as_ref()
        };
        let sender = sender.ok_or(io::ErrorKind::Unsupported)?;
        let address = SocketAddr::new(to, 0).into();
        sender.send_to_with_flags(packet, &address, libc::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// Fails if a descriptor is that of a file. Its memory could end before the mapping does, which
/// would end the process; that of a BPF map cannot.
fn check_anonymous(ring: &OwnedFd) -> io::Result<()> {
    let metadata = File::from(ring.try_clone()?).metadata()?;
    match metadata.mode() & libc::S_IFMT {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Takes a descriptor as a sender: a raw socket that sends whole packets of this family.
fn sender(descriptor: OwnedFd, domain: Domain) -> io::Result<Socket> {
    let socket = Socket::from(descriptor);
    let is_sender = socket.domain()? == domain
        && socket.r#type()? == Type::RAW
        && socket.protocol()? == Some(Protocol::from(RAW));
    if is_sender {
        Ok(socket)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices")
            .field("ring", &self.ring)
            .field("sender4", &self.sender4)
            .field("sender6", &self.sender6)
            .finish_non_exhaustive()
    }
}
