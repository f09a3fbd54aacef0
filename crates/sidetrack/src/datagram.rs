//! Where a service's redirected datagrams arrive.
//!
//! All flows of a family come to one socket, each at an address of its own. What the kernel says of a
//! flow is asked once, and remembered.

mod batch;
mod session;
mod unreachable;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{fmt, io};

use sidetrack_abi::{address, kernel};
use socket2::{Domain, Protocol, Socket, Type};
use zerocopy::IntoBytes;

use crate::listener::{if_ipv6, listen_error};
use crate::{Error, Flow, Service, query, sys};

pub use batch::{Batch, Datagram};
use session::Sessions;
use unreachable::Reporter;
pub use unreachable::Unreachable;

/// What may wait in a socket each way, in bytes as the kernel counts them.
const BUFFER_SIZE: usize = 4 << 20;

/// A service's UDP sockets, one for each family.
pub struct DatagramListener {
    pub(crate) sockets: Vec<UdpSocket>,
    sessions: Mutex<Sessions>,
    refused: AtomicU64,
    reporter: Reporter,
}

impl DatagramListener {
    /// Takes the datagrams of `service` at a free port, and tells the kernel so.
    ///
    /// IPv6 is left out where the host has none, and in a network namespace that the engine does not
    /// know. Nothing from other hosts is taken: such datagrams are dropped, and counted. Errors:
    /// [`Error::NoEngine`], [`Error::BadSecret`], [`Error::OtherListener`], [`Error::System`].
    pub fn bind(service: &Service) -> Result<Self, Error> {
        // IPv6 first: who waits for the service waits for either, and finds both.
        let v6 = if_ipv6(listen(service, Ipv6Addr::UNSPECIFIED.into()))?;
        let v4 = listen(service, Ipv4Addr::UNSPECIFIED.into())?;
        Ok(Self {
            sockets: [v4].into_iter().chain(v6).collect(),
            sessions: Mutex::default(),
            refused: AtomicU64::new(0),
            reporter: Reporter::default(),
        })
    }

    /// Waits for datagrams, and fills `batch` with as many as there are; at least one.
    ///
    /// Those that the kernel did not divert are dropped and counted, see
    /// [`refused`](Self::refused). Errors: [`Error::System`].
    pub fn receive(&self, batch: &mut Batch) -> Result<(), Error> {
        loop {
            let ready =
                sys::wait_readable(&self.sockets).map_err(Error::system("wait for a datagram"))?;
            match self.try_receive(ready, batch) {
                Ok(()) if batch.is_empty() => {}
                Err(Error::System { source, .. }) if is_passing(&source) => {}
                taken => return taken,
            }
        }
    }

    /// Answers a flow's client, as from where its datagrams were going.
    ///
    /// Errors: [`Error::System`].
    pub fn answer(&self, flow: &Flow, payload: &[u8]) -> Result<(), Error> {
        self.answer_all(&[(flow, payload)]).map(|_| ())
    }

    /// The same for many, in as few system calls as can be. Returns how many were sent: all, unless the
    /// socket's buffer was full.
    ///
    /// Errors: [`Error::System`], if not even one was sent.
    pub fn answer_all(&self, answers: &[(&Flow, &[u8])]) -> Result<usize, Error> {
        let mut sent = 0;
        for run in answers.chunk_by(|a, b| a.0.is_ipv4() == b.0.is_ipv4()) {
            let letters: Vec<_> = run
                .iter()
                .map(|(flow, payload)| letter(flow, payload))
                .collect();
            let socket = self.socket_of(run[0].0)?;
            match sys::send(socket, &letters) {
                Ok(count) if count == letters.len() => sent += count,
                Ok(count) => return Ok(sent + count),
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(Error::system("answer a datagram")(error)),
            }
        }
        Ok(sent)
    }

    /// Tells a flow's client that its datagrams do not arrive, as from where they were going. A socket that
    /// is connected is told by its next call, and any that asks for errors (`IP_RECVERR`).
    ///
    /// This takes CAP_NET_RAW. Errors: [`Error::System`], with `PermissionDenied` without it.
    pub fn report(&self, flow: &Flow, why: Unreachable) -> Result<(), Error> {
        let reported = self.reporter.report(flow, why);
        reported.map_err(Error::system("tell a client that it does not get through"))
    }

    /// Forgets a flow: its next datagram, if there is one, is a first one again.
    pub fn forget(&self, flow: &Flow) {
        self.sessions().forget(flow);
    }

    /// How many datagrams were dropped because they were not redirected to this service.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where it takes datagrams: IPv4, then IPv6 if the host has it.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(UdpSocket::local_addr).collect()
    }

    /// The sockets, in the order of [`addresses`](Self::addresses): for those who wait by themselves.
    pub fn sockets(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// How many datagrams the kernel has dropped because nobody took them in time.
    pub fn overflowed(&self) -> u64 {
        self.sockets().map(sys::drops).sum()
    }

    /// Takes what one of the sockets has, by its place in [`sockets`](Self::sockets), without waiting;
    /// `batch` is empty if nothing of it was redirected to this service.
    ///
    /// Errors: [`Error::System`], with `WouldBlock` if there is nothing.
    pub fn try_receive(&self, socket: usize, batch: &mut Batch) -> Result<(), Error> {
        let socket = self.sockets[socket].as_fd();
        let arrived = batch
            .receive(socket)
            .map_err(Error::system("receive datagrams"))?;
        let mut sessions = self.sessions();
        let now = Instant::now();
        for (index, envelope) in arrived {
            let known = sessions.find((envelope.to, envelope.from), now);
            let (flow, first) = match known {
                Some(flow) => (flow, false),
                None => match ask(socket, &envelope) {
                    Ok(flow) => (sessions.add((envelope.to, envelope.from), flow, now), true),
                    Err(Error::NotRedirected) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            batch.add(index, &envelope, flow, first);
        }
        Ok(())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket_of(&self, flow: &Flow) -> Result<BorrowedFd<'_>, Error> {
        let socket = self.sockets.get(usize::from(!flow.is_ipv4()));
        socket.map(AsFd::as_fd).ok_or(Error::NotRedirected)
    }
}

/// What the kernel says of a datagram's flow. The caller sees to it that nobody asks at the same time:
/// the option that names the datagram is the socket's.
fn ask(socket: BorrowedFd<'_>, envelope: &sys::Envelope) -> Result<Flow, Error> {
    let datagram = kernel::Datagram {
        flow_addr: address::to_bytes(envelope.to),
        client_addr: address::to_bytes(envelope.from.ip()),
        client_port: envelope.from.port().to_be_bytes(),
        reserved: [0; 3],
    };
    sys::set_option(socket, kernel::DATAGRAM, datagram.as_bytes()).map_err(
        |source| match source.raw_os_error() {
            Some(libc::ENODATA) => Error::NotRedirected,
            _ => Error::system("ask about a datagram")(source),
        },
    )?;
    query(socket)
}

fn letter<'a>(flow: &Flow, payload: &'a [u8]) -> sys::Letter<'a> {
    sys::Letter {
        payload,
        from: flow.own_address().ip(),
        to: flow.client(),
    }
}

fn listen(service: &Service, address: IpAddr) -> Result<UdpSocket, Error> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
    .map_err(Error::system("make the socket for datagrams"))?;
    prepare(&socket, address.is_ipv4())
        .and_then(|()| socket.bind(&address.into()))
        .map_err(Error::system("prepare the socket for datagrams"))?;
    sys::set_option(socket.as_fd(), kernel::LISTEN, service.option()).map_err(listen_error)?;
    Ok(socket.into())
}

/// The kernel is to tell each datagram's own address, and to let us answer from it.
fn prepare(socket: &Socket, v4: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // All flows share it. The host's rmem_max and wmem_max may say less.
    socket.set_recv_buffer_size(BUFFER_SIZE)?;
    socket.set_send_buffer_size(BUFFER_SIZE)?;
    if v4 {
        // IPv6 is not bound to it: answers to a client of another device would find no route.
        socket.bind_device(Some(b"lo"))?;
        return sys::set_flag(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO);
    }
    socket.set_only_v6(true)?;
    socket.set_freebind_v6(true)?;
    sys::set_flag(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
}

/// Another thread was faster, or an ICMP error came for a client that is gone.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
    )
}

impl fmt::Debug for DatagramListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramListener")
            .field("addresses", &self.addresses().unwrap_or_default())
            .field("refused", &self.refused())
            .finish()
    }
}
