//! The UDP sockets of a service.
//!
//! One socket receives the datagrams of all flows of a family. Each flow has its own loopback
//! address, at which its datagrams arrive. The kernel is queried for a flow once, at its first
//! datagram; the result is kept in a [`FlowTable`]. docs/datagrams.md describes the protocol.

mod batch;
#[allow(unsafe_code)]
mod ffi;
mod flow_table;
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

use crate::listener::{listen_error, none_without_ipv6};
use crate::{Error, Flow, Service, query, sys};

pub use batch::{Batch, Datagram};
use flow_table::FlowTable;
use unreachable::Reporter;
pub use unreachable::Unreachable;
pub(crate) use unreachable::{RAW, error_packet, ip_packet};

/// Size of the receive buffer and of the send buffer of each socket, in bytes as the kernel counts
/// them.
const BUFFER_SIZE: usize = 4 << 20;

/// The UDP sockets of a service: one for IPv4 and, where the host has IPv6, one for IPv6.
///
/// All methods take `&self`; several threads may receive and answer at the same time.
///
/// # Example
///
/// ```no_run
/// use sidetrack::{Batch, DatagramListener, Service};
///
/// # fn main() -> Result<(), sidetrack::Error> {
/// let listener = DatagramListener::bind(&Service::from_env()?)?;
/// let mut batch = Batch::new(64, 2048); // 64 datagrams of up to 2,048 bytes
/// loop {
///     listener.receive(&mut batch)?;
///     for datagram in batch.iter() {
///         let flow = datagram.flow();
///         println!("{} bytes to {}", datagram.payload().len(), flow.original_destination());
///         listener.answer(flow, b"an answer")?;
///     }
/// }
/// # }
/// ```
///
/// `examples/datagrams.rs` is a complete proxy.
pub struct DatagramListener {
    /// IPv4 first. Non-blocking.
    pub(crate) sockets: Vec<UdpSocket>,
    flow_table: Mutex<FlowTable>,
    /// Number of datagrams that were not redirected to this service.
    refused: AtomicU64,
    reporter: Reporter,
}

impl DatagramListener {
    /// Opens the UDP sockets of `service` on free ports, and marks them with the option LISTEN.
    ///
    /// There is no IPv6 socket if the host has no IPv6, or if the network namespace is not one for
    /// which the engine has an IPv6 prefix. Datagrams from other hosts are dropped and counted in
    /// [`refused`](Self::refused).
    ///
    /// # Errors
    ///
    /// - [`Error::NoEngine`] if the process is in a cgroup to which no engine is attached.
    /// - [`Error::BadSecret`] if the engine does not know the service or its secret.
    /// - [`Error::OtherListener`] if the service already has a UDP socket of the family on another
    ///   port.
    /// - [`Error::System`] if a system call failed.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        // A process that waits until the service listens, such as `sidetrack run`, does not
        // distinguish the families. The IPv4 socket, which always exists, is therefore registered
        // last.
        let v6 = none_without_ipv6(listen(service, Ipv6Addr::UNSPECIFIED.into()))?;
        let v4 = listen(service, Ipv4Addr::UNSPECIFIED.into())?;
        Ok(Self {
            sockets: [v4].into_iter().chain(v6).collect(),
            flow_table: Mutex::default(),
            refused: AtomicU64::new(0),
            reporter: Reporter::default(),
        })
    }

    /// Waits for datagrams, and fills `batch` with those that are there: at least one.
    ///
    /// Datagrams that were not redirected to this service are dropped and counted in
    /// [`refused`](Self::refused).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if a system call failed. Otherwise the errors of [`query`], for example
    /// [`Error::NoEngine`] after the engine was removed.
    pub fn receive(&self, batch: &mut Batch) -> Result<(), Error> {
        loop {
            let ready =
                sys::wait_readable(&self.sockets).map_err(Error::system("wait for a datagram"))?;
            match self.try_receive(ready, batch) {
                Ok(()) if batch.is_empty() => {}
                Err(Error::System { source, .. }) if is_transient(&source) => {}
                taken => return taken,
            }
        }
    }

    /// Sends an answer to the client of a flow. The client receives it from the original
    /// destination.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if sending failed: with `WouldBlock` if the socket's send buffer is full.
    /// [`Error::NotRedirected`] for a flow of a family for which there is no socket.
    pub fn answer(&self, flow: &Flow, payload: &[u8]) -> Result<(), Error> {
        self.answer_all(&[(flow, payload)]).map(|_| ())
    }

    /// Sends several answers with as few system calls as possible. Returns the number of answers
    /// sent, which is less than all if the socket's send buffer is full.
    ///
    /// # Errors
    ///
    /// Those of [`answer`](Self::answer), if not even the first answer was sent.
    pub fn answer_all(&self, answers: &[(&Flow, &[u8])]) -> Result<usize, Error> {
        let mut sent = 0;
        for group in answers.chunk_by(|a, b| a.0.is_ipv4() == b.0.is_ipv4()) {
            let messages: Vec<_> = group
                .iter()
                .map(|(flow, payload)| answer_to(flow, payload))
                .collect();
            let socket = self.socket_of(group[0].0)?;
            match ffi::send(socket, &messages) {
                Ok(count) if count == messages.len() => sent += count,
                Ok(count) => return Ok(sent + count),
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(Error::system("answer a datagram")(error)),
            }
        }
        Ok(sent)
    }

    /// Reports to the client of a flow that its datagrams do not arrive.
    ///
    /// Sends an ICMP packet from the original destination. A connected client socket gets the error
    /// from its next call; an unconnected one gets it only if it asked for errors (`IP_RECVERR`).
    ///
    /// # Errors
    ///
    /// [`Error::System`] if sending failed: with `PermissionDenied` if the process lacks
    /// CAP_NET_RAW.
    pub fn report(&self, flow: &Flow, why: Unreachable) -> Result<(), Error> {
        let reported = self.reporter.report(flow, why);
        reported.map_err(Error::system(
            "report an unreachable destination to a client",
        ))
    }

    /// Removes a flow from the table. Its next datagram, if any, is again reported as the flow's
    /// first.
    pub fn forget(&self, flow: &Flow) {
        self.flow_table().forget(flow);
    }

    /// Number of datagrams that were dropped because they were not redirected to this service.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The addresses of the sockets: IPv4, then IPv6 if there is such a socket.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(UdpSocket::local_addr).collect()
    }

    /// The sockets, in the order of [`addresses`](Self::addresses). They are non-blocking. Use them
    /// to wait in an event loop.
    pub fn sockets(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// Number of datagrams that the kernel dropped because a socket's receive buffer was full.
    pub fn overflowed(&self) -> u64 {
        self.sockets().map(sys::drops).sum()
    }

    /// Receives without blocking from the socket at index `socket` of [`sockets`](Self::sockets).
    ///
    /// `batch` is empty afterwards if none of the datagrams was redirected to this service.
    ///
    /// # Errors
    ///
    /// [`Error::System`], with `WouldBlock` if no datagram is there. Otherwise as
    /// [`receive`](Self::receive).
    ///
    /// # Panics
    ///
    /// If there is no socket with this index.
    pub fn try_receive(&self, socket: usize, batch: &mut Batch) -> Result<(), Error> {
        let socket = self.sockets[socket].as_fd();
        let arrived = batch
            .receive(socket)
            .map_err(Error::system("receive datagrams"))?;
        let mut flow_table = self.flow_table();
        let now = Instant::now();
        for (index, metadata) in arrived {
            let known = flow_table.find((metadata.to, metadata.from), now);
            let (flow, first) = match known {
                Some(flow) => (flow, false),
                None => match query_flow(socket, &metadata) {
                    Ok(flow) => (
                        flow_table.add((metadata.to, metadata.from), flow, now),
                        true,
                    ),
                    Err(Error::NotRedirected) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            batch.add(index, &metadata, flow, first);
        }
        Ok(())
    }

    fn flow_table(&self) -> MutexGuard<'_, FlowTable> {
        self.flow_table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn socket_of(&self, flow: &Flow) -> Result<BorrowedFd<'_>, Error> {
        let socket = self.sockets.get(usize::from(!flow.is_ipv4()));
        socket.map(AsFd::as_fd).ok_or(Error::NotRedirected)
    }
}

/// Queries the flow of a datagram. Only one thread at a time may do so, because the option
/// DATAGRAM, which selects the datagram, is state of the socket; the caller holds the lock of the
/// flow table.
fn query_flow(socket: BorrowedFd<'_>, metadata: &ffi::DatagramMetadata) -> Result<Flow, Error> {
    let datagram = kernel::Datagram {
        flow_addr: address::to_bytes(metadata.to),
        client_addr: address::to_bytes(metadata.from.ip()),
        client_port: metadata.from.port().to_be_bytes(),
        reserved: [0; 3],
    };
    sys::set_option(socket, kernel::DATAGRAM, datagram.as_bytes()).map_err(
        |source| match source.raw_os_error() {
            Some(libc::ENODATA) => Error::NotRedirected,
            _ => Error::system("select a datagram to query")(source),
        },
    )?;
    query(socket)
}

fn answer_to<'a>(flow: &Flow, payload: &'a [u8]) -> ffi::OutgoingMessage<'a> {
    ffi::OutgoingMessage {
        payload,
        from: Some(flow.own_address().ip()),
        to: Some(flow.client()),
    }
}

/// Sends datagrams on a connected socket with as few system calls as possible. Returns the number
/// sent.
///
/// Consecutive datagrams of the same length are handed to the kernel as one buffer, which the
/// kernel splits again (UDP_SEGMENT).
///
/// # Errors
///
/// The error of the first datagram, if not even that one was sent.
pub fn send_all(socket: impl AsFd, payloads: &[&[u8]]) -> io::Result<usize> {
    let messages: Vec<_> = (payloads.iter())
        .map(|payload| ffi::OutgoingMessage {
            payload,
            from: None,
            to: None,
        })
        .collect();
    match messages.is_empty() {
        true => Ok(0),
        false => ffi::send(socket.as_fd(), &messages),
    }
}

fn listen(service: &Service, address: IpAddr) -> Result<UdpSocket, Error> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
    .map_err(Error::system("create the UDP socket"))?;
    set_options(&socket, address.is_ipv4())
        .and_then(|()| socket.bind(&address.into()))
        .map_err(Error::system("prepare the UDP socket"))?;
    sys::set_option(socket.as_fd(), kernel::LISTEN, service.option()).map_err(listen_error)?;
    Ok(socket.into())
}

/// Sets the options that a service's socket needs. With packet info the kernel reports the address
/// at which each datagram arrived, and accepts that address as the source of an answer.
fn set_options(socket: &Socket, v4: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // All flows share these buffers. The host's rmem_max and wmem_max may limit them.
    socket.set_recv_buffer_size(BUFFER_SIZE)?;
    socket.set_send_buffer_size(BUFFER_SIZE)?;
    if v4 {
        // The IPv6 socket is not bound to `lo`: it would find no route for answers to a client
        // whose socket is bound to an address of another device.
        socket.bind_device(Some(b"lo"))?;
        return sys::set_flag(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO);
    }
    socket.set_only_v6(true)?;
    socket.set_freebind_v6(true)?;
    sys::set_flag(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
}

/// Whether receiving can simply be repeated: another thread took the datagram, a signal arrived, or
/// an ICMP error arrived for a client that has closed its socket.
pub(crate) fn is_transient(error: &io::Error) -> bool {
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
