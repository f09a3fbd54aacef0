//! A connect that is held.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fmt, fs, hint, io};

use sidetrack_abi::address;
use sidetrack_abi::kernel::{self, Complete};
use socket2::{SockRef, Socket};
use zerocopy::IntoBytes;

use super::arrivals::Arrived;
use super::expected::Expected;
use super::notices::Notices;
use super::packet::{Refusal, Syn};
use crate::listener::Sockets;
use crate::outgoing::{self, Blocking};
use crate::{Connection, Error, Flow, Records, query, sys};

/// A client that called connect less than this time ago may still hold its socket's lock. An ICMP
/// error that comes then would only end the connect when the client sends its SYN again.
const SOCKET_LOCK_MAX: Duration = Duration::from_micros(100);

/// A client's connect that is held: its SYN waits for the proxy's answer.
///
/// The proxy connects onward, with the flow's records, and then either lets the client connect
/// ([`complete`](Self::complete)) or refuses its connect with the error that the onward connect
/// had ([`refuse`](Self::refuse)). If a value is dropped, the connect is refused with ECONNREFUSED.
///
/// See [`Listener::pended`](crate::Listener::pended) for an example.
pub struct Pending {
    records: kernel::Records,
    /// CLOCK_MONOTONIC.
    connected_at: Duration,
    destination: SocketAddr,
    syn: Syn,
    notices: Arc<Notices>,
    /// Closed listeners do not stay open for a connect that they hold.
    listener: Weak<Sockets>,
    flow: OnceLock<Flow>,
    /// The socket on which the flow was queried, which is the outgoing socket later.
    queried: Mutex<Option<(SocketAddr, Socket)>>,
    /// Whether a socket with the records was handed out. If not, the proxy goes on without them.
    has_outgoing: AtomicBool,
    /// Whether the client still waits for an answer.
    is_open: bool,
}

impl Pending {
    pub(crate) fn new(
        notice: &kernel::Notice,
        syn: Syn,
        notices: Arc<Notices>,
        listener: Weak<Sockets>,
    ) -> Self {
        Self {
            records: notice.records,
            connected_at: Duration::from_nanos(notice.connected_at),
            destination: address::socket_address(notice.remote_addr, notice.remote_port),
            syn,
            notices,
            listener,
            flow: OnceLock::new(),
            queried: Mutex::new(None),
            has_outgoing: AtomicBool::new(false),
            is_open: true,
        }
    }

    /// The address that the program asked for. An IPv4-mapped IPv6 address is returned as IPv4.
    pub fn original_destination(&self) -> SocketAddr {
        self.destination
    }

    /// The id of the flow. The client's [`Connection`] has the same one later.
    pub fn flow_id(&self) -> u64 {
        self.records.flow_id
    }

    /// The redirect records, for outgoing sockets that another library makes.
    /// [`connect`](Self::connect) and [`outgoing`](Self::outgoing) set them by themselves.
    pub fn records(&self) -> Records {
        Records(self.records)
    }

    /// The flow: the program, the context, the chain. It is queried when it is first needed, on the
    /// later outgoing socket.
    ///
    /// # Errors
    ///
    /// - [`Error::ClientGone`] if the flow has ended.
    /// - Otherwise the errors of [`query`].
    pub fn flow(&self) -> Result<&Flow, Error> {
        if let Some(flow) = self.flow.get() {
            return Ok(flow);
        }
        let socket = self.new_socket(self.destination, Blocking::No)?;
        let flow = query(&socket).map_err(gone_if_ended)?;
        *self.queried() = Some((self.destination, socket));
        Ok(self.flow.get_or_init(|| flow))
    }

    /// Time since the program called connect.
    pub fn age(&self) -> Duration {
        sys::monotonic_now().saturating_sub(self.connected_at)
    }

    /// When the time-out of the client's connect ends at the latest, after
    /// `net.ipv4.tcp_syn_retries` of this host. A client may have a shorter time-out.
    pub fn deadline(&self) -> Instant {
        Instant::now() + syn_timeout().saturating_sub(self.age())
    }

    /// Whether the client has closed its socket, or its time-out is over.
    ///
    /// That is noticed when the notice of it is read, so some thread must call
    /// [`Listener::pended`](crate::Listener::pended), `try_pended` or `accept`.
    pub fn is_gone(&self) -> bool {
        let now = Instant::now();
        !self
            .notices
            .with_table(|table| table.is_held(self.flow_id(), now))
    }

    /// Connects to the original destination with the records set. Blocks until connected.
    ///
    /// # Errors
    ///
    /// As [`Flow::connect`]; [`Error::ClientGone`] if the flow has ended. Hand the source of
    /// [`Error::System`] to [`refuse`](Self::refuse), so that the client gets the same error.
    pub fn connect(&self) -> Result<TcpStream, Error> {
        outgoing::connect(self.outgoing(self.destination)?, self.destination)
    }

    /// Starts to connect to the original destination with the records set, and does not wait; see
    /// [`Flow::connect_nonblocking`].
    pub fn connect_nonblocking(&self) -> Result<TcpStream, Error> {
        let socket = self.socket(self.destination, Blocking::No)?;
        outgoing::start_to_connect(socket, self.destination)
    }

    /// Creates a TCP socket for `destination` with the records set, not yet connected; see
    /// [`Flow::outgoing`].
    pub fn outgoing(&self, destination: SocketAddr) -> Result<Socket, Error> {
        self.socket(destination, Blocking::Yes)
    }

    /// Checks that this host has a route to the original destination, and sends nothing. For a proxy that
    /// [accepts](Self::accept) first: without a route, it can refuse the client at once with the error that
    /// a connect would have had, and a client that has other addresses tries those.
    ///
    /// # Errors
    ///
    /// [`Error::System`], for example with ENETUNREACH; hand its source to [`refuse`](Self::refuse).
    pub fn check_route(&self) -> Result<(), Error> {
        outgoing::check_route(self.destination.ip())
    }

    /// Lets the client connect, and returns the stream to it. Waits until the client's connection
    /// is accepted, which takes microseconds, or, under load, up to three seconds.
    ///
    /// `origin` is the connected outgoing socket. The client's `getsockname` shows its address, as
    /// the origin sees it.
    ///
    /// # Errors
    ///
    /// - [`Error::ClientGone`] if the client has given up, or the listener was dropped. Close the
    ///   outgoing connection.
    /// - [`Error::NoEngine`] if the engine was removed, [`Error::BadRecords`] if the service was.
    /// - [`Error::System`] if a system call failed.
    pub fn complete(self, origin: &TcpStream) -> Result<TcpStream, Error> {
        let local = self.local_end(origin);
        Ok(self.complete_as(local)?.stream)
    }

    /// Lets the client connect before there is an outgoing connection, as a listener that does not
    /// pend does. Otherwise as [`complete`](Self::complete).
    pub fn accept(self) -> Result<TcpStream, Error> {
        Ok(self.complete_as(None)?.stream)
    }

    /// As [`accept`](Self::accept), with the flow.
    pub(crate) fn accept_connection(self) -> Result<Connection, Error> {
        let listener = self.sockets()?;
        listener.connection(self.complete_as(None)?)
    }

    /// Lets the client connect, and does not wait. The client comes as a
    /// [`Connection`] by
    /// [`Listener::try_accept`](crate::Listener::try_accept); its flow has the id that this returns.
    /// If the client is gone before that, there is a [`Notice::Gone`](crate::Notice::Gone).
    ///
    /// The errors are those of [`complete`](Self::complete).
    pub fn complete_nonblocking(mut self) -> Result<u64, Error> {
        let listener = self.sockets()?;
        self.open(&listener, None)?;
        Ok(self.flow_id())
    }

    /// Refuses the client's connect, with the error of the onward connect where the network has a
    /// packet for it (docs/pended.md has the table). After a time-out (ETIMEDOUT) nothing is sent:
    /// the client's own time-out ends its connect. Close the outgoing socket before.
    ///
    /// An error for a client that has just called connect is delayed by up to 100 µs.
    ///
    /// # Errors
    ///
    /// None at present. If the packet is lost, it is sent again when the client sends its SYN again.
    pub fn refuse(mut self, error: &io::Error) -> Result<(), Error> {
        self.refuse_by(Refusal::of(error));
        Ok(())
    }

    fn complete_as(mut self, local: Option<SocketAddr>) -> Result<Arrived, Error> {
        let listener = self.sockets()?;
        let expected = self.expect(&listener);
        self.open(&listener, local)?;
        let arrived = expected.wait();
        if arrived.is_err() {
            // It may still wait, as its SYN was lost: it is not accepted later.
            self.notices.send_refusal(&self.syn, Refusal::Reset);
        }
        arrived
    }

    /// Starts to wait for the client's connection.
    pub(crate) fn expect(&self, listener: &Arc<Sockets>) -> Expected {
        let socket = listener.index(self.syn.target().is_ipv4());
        Expected::new(listener, &self.notices, socket, self.flow_id())
    }

    /// Completes the flow and sends the client's SYN again.
    pub(crate) fn open(
        &mut self,
        listener: &Sockets,
        local: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let (flow_id, flow) = (self.flow_id(), self.flow.take());
        drop(self.queried().take());
        if !self
            .notices
            .with_table(|table| table.complete(flow_id, flow))
        {
            self.is_open = false;
            return Err(Error::ClientGone);
        }
        let option = Complete {
            records: self.records,
            local_addr: local.map_or([0; 16], |local| address::to_bytes(local.ip())),
            local_port: local.map_or([0; 2], |local| local.port().to_be_bytes()),
            reserved: [0; 3],
        };
        let socket = listener.socket(listener.index(self.syn.target().is_ipv4()));
        let completed = sys::set_option(socket, kernel::COMPLETE, option.as_bytes());
        if let Err(error) = completed.map_err(complete_error) {
            if matches!(error, Error::ClientGone) {
                self.is_open = false;
                self.notices.with_table(|table| table.forget(flow_id));
            }
            return Err(error); // if the client still waits, it is refused by drop
        }
        self.is_open = false;
        self.notices.send_syn(&self.syn);
        Ok(())
    }

    fn refuse_by(&mut self, refusal: Refusal) {
        self.is_open = false;
        drop(self.queried().take());
        let flow_id = self.flow_id();
        if !self
            .notices
            .with_table(|table| table.refuse(flow_id, refusal))
        {
            return; // the client is gone
        }
        if let Refusal::Unreachable(_) = refusal {
            while self.age() < SOCKET_LOCK_MAX {
                hint::spin_loop();
            }
        }
        self.notices.send_refusal(&self.syn, refusal);
    }

    /// Takes the socket on which the flow was queried, or makes one.
    fn socket(&self, destination: SocketAddr, blocking: Blocking) -> Result<Socket, Error> {
        let own = SocketAddr::new(self.syn.target(), self.syn.target_port());
        outgoing::check_destination(destination, own)?;
        self.has_outgoing.store(true, Ordering::Relaxed);
        let queried = self.queried().take();
        match queried {
            Some((of, socket)) if of == destination => {
                if matches!(blocking, Blocking::Yes) {
                    socket
                        .set_nonblocking(false)
                        .map_err(Error::system("make the outgoing socket blocking"))?;
                }
                Ok(socket)
            }
            _ => self.new_socket(destination, blocking),
        }
    }

    fn new_socket(&self, destination: SocketAddr, blocking: Blocking) -> Result<Socket, Error> {
        outgoing::socket(destination, &self.records(), blocking).map_err(gone_if_ended)
    }

    /// The address of the outgoing connection, for the client's `getsockname`. The kernel knows it by
    /// itself if the socket has the records.
    pub(crate) fn local_end(&self, origin: impl AsFd) -> Option<SocketAddr> {
        if self.has_outgoing.load(Ordering::Relaxed) {
            return None;
        }
        SockRef::from(&origin).local_addr().ok()?.as_socket()
    }

    fn queried(&self) -> MutexGuard<'_, Option<(SocketAddr, Socket)>> {
        self.queried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listener's sockets. If they are closed, nobody can accept the client: it is refused when
    /// `self` is dropped.
    pub(crate) fn sockets(&self) -> Result<Arc<Sockets>, Error> {
        self.listener.upgrade().ok_or(Error::ClientGone)
    }

    /// Returns ready when the client is gone; otherwise the task is woken then. It is for async
    /// programs of any runtime; see [`is_gone`](Self::is_gone).
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        let flow_id = self.flow_id();
        let waits = self
            .notices
            .with_table(|table| table.wake_when_gone(flow_id, context.waker()));
        if waits {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.is_open {
            self.refuse_by(Refusal::Reset);
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("flow_id", &self.flow_id())
            .field("original_destination", &self.destination)
            .finish_non_exhaustive()
    }
}

fn complete_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOTCONN) => Error::ClientGone,
        Some(libc::EINVAL) => Error::BadRecords,
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::NoEngine,
        _ => Error::System {
            what: "complete the client's connect",
            source,
        },
    }
}

/// The records of a held flow are valid as long as it is held.
fn gone_if_ended(error: Error) -> Error {
    match error {
        Error::BadRecords | Error::NotConnected => Error::ClientGone,
        error => error,
    }
}

/// The time-out of a connect: the kernel sends the SYN `net.ipv4.tcp_syn_retries` times again,
/// after one second and then after twice the time before, but at most 120 seconds. (Linux 6.5 and
/// later wait one second more often, which is shorter.)
fn syn_timeout() -> Duration {
    static TIMEOUT: OnceLock<Duration> = OnceLock::new();
    *TIMEOUT.get_or_init(|| {
        let setting = fs::read_to_string("/proc/sys/net/ipv4/tcp_syn_retries");
        let retries = setting.ok().and_then(|text| text.trim().parse().ok());
        syn_timeout_after(retries.unwrap_or(6))
    })
}

fn syn_timeout_after(retries: u32) -> Duration {
    let waits = (0..=retries).map(|sent| 1_u64.checked_shl(sent).unwrap_or(u64::MAX).min(120));
    Duration::from_secs(waits.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_out_of_a_connect_follows_its_retries() {
        assert_eq!(syn_timeout_after(0), Duration::from_secs(1));
        assert_eq!(syn_timeout_after(6), Duration::from_secs(127));
        assert_eq!(syn_timeout_after(7), Duration::from_secs(247));
        assert_eq!(syn_timeout_after(127), Duration::from_secs(127 + 121 * 120));
    }
}
