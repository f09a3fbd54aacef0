//! The TCP listeners of a service.

mod sockets;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use sidetrack_abi::kernel;
use socket2::{Domain, Protocol, Socket, Type};

use self::sockets::PendedListener;
pub(crate) use self::sockets::{Accepted, Sockets};
use crate::outgoing::Blocking;
use crate::pended::{Noticed, WhyAccepted};
use crate::{Connection, Error, Notice, Pending, Service, sys};

/// Length of the accept queue. The kernel limits it to the host's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The TCP listeners of a service: one for IPv4 and, where the host has IPv6, one for IPv6.
///
/// [`accept`](Self::accept) blocks. [`sockets`](Self::sockets) and [`try_accept`](Self::try_accept)
/// are for an event loop, and [`crate::tokio::Listener`] is for async programs.
pub struct Listener {
    pub(crate) sockets: Arc<Sockets>,
    why_accepted: Option<WhyAccepted>,
    /// Held by the thread that waits for a notice.
    turn: Mutex<()>,
}

impl Listener {
    /// Opens the listeners of `service` on free ports, and marks them with the option LISTEN; or, if
    /// the service asks for it ([`Service::pended`]), with LISTEN_PENDED.
    ///
    /// The listeners accept no connection from other hosts. The IPv4 listener is bound to the
    /// wildcard address and to the device `lo`, so that it accepts connections to every loopback
    /// address; the IPv6 listener is bound to `::1`. If the host has no IPv6, there is no IPv6
    /// listener.
    ///
    /// If connects cannot be pended, the listener accepts first:
    /// [`why_accepted`](Self::why_accepted) says why.
    ///
    /// # Errors
    ///
    /// - [`Error::NoEngine`] if the process is in a cgroup to which no engine is attached.
    /// - [`Error::BadSecret`] if the engine does not know the service or its secret.
    /// - [`Error::OtherListener`] if the service already listens on another address of the family.
    /// - [`Error::System`] if a system call failed.
    pub fn bind(service: &Service) -> Result<Self, Error> {
        let asked = service.notices();
        let notices = asked.and_then(Result::ok);
        let (mut sockets, mut is_pended) = (Vec::with_capacity(2), false);
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        for address in [v4, v6] {
            let pends = notices.filter(|notices| notices.has_sender(address.is_ipv4()));
            let made = listen(service, address, pends.is_some());
            let made = if address.is_ipv4() {
                made.map(Some)
            } else {
                none_without_ipv6(made)
            };
            if let Some((socket, pends)) = made? {
                sockets.push(socket);
                is_pended |= pends;
            }
        }
        let notices = notices.filter(|_| is_pended);
        let pended = notices.map(|notices| PendedListener::new(Arc::clone(notices)));
        let why_accepted = match asked {
            Some(Err(why)) => Some(why),
            Some(Ok(_)) if !is_pended => Some(WhyAccepted::ServiceAccepts),
            _ => None,
        };
        Ok(Self {
            sockets: Arc::new(Sockets::new(sockets, pended.transpose()?)),
            why_accepted,
            turn: Mutex::new(()),
        })
    }

    /// Waits for the next redirected connection, and returns it with its flow.
    ///
    /// A connection that was not redirected to this service is closed and counted in
    /// [`refused`](Self::refused); the call then waits for another one.
    ///
    /// A listener that pends completes the next held connect, and returns its connection, as if it
    /// did not pend.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if `poll` or `accept` failed; most causes are temporary, for example
    /// EMFILE. Otherwise the errors of [`query`](crate::query), for example [`Error::NoEngine`] after the engine
    /// was removed.
    pub fn accept(&self) -> Result<Connection, Error> {
        match &self.sockets.pended {
            Some(pended) => self.accept_pended(pended),
            None => self.accept_redirected(),
        }
    }

    fn accept_redirected(&self) -> Result<Connection, Error> {
        let sockets: Vec<_> = self.sockets().collect();
        loop {
            let ready =
                sys::wait_readable(&sockets).map_err(Error::system("wait for a connection"))?;
            let accepted = self.sockets.accept_redirected(ready, Blocking::Yes)?;
            if let Accepted::Connection(connection) = accepted {
                return Ok(connection);
            }
        }
    }

    fn accept_pended(&self, pended: &PendedListener) -> Result<Connection, Error> {
        let mut waited = vec![pended.notices.ring(), pended.others.count()];
        let before_sockets = waited.len();
        waited.extend(self.sockets());
        loop {
            if let Some(connection) = self.sockets.take_other(Blocking::Yes)? {
                return Ok(connection);
            }
            match self.try_pended()? {
                Some(Notice::Pending(pending)) => match pending.accept_connection() {
                    Err(Error::ClientGone) => continue,
                    accepted => return accepted,
                },
                Some(Notice::Gone(_)) => continue,
                None => {}
            }
            let ready =
                sys::wait_readable(&waited).map_err(Error::system("wait for a connection"))?;
            if let Some(socket) = ready.checked_sub(before_sockets)
                && let Accepted::Connection(connection) =
                    self.sockets.accept_unexpected(socket, Blocking::Yes)?
            {
                return Ok(connection);
            }
        }
    }

    /// Accepts a connection without blocking, from the socket at index `socket` of
    /// [`sockets`](Self::sockets). The returned stream is non-blocking.
    ///
    /// Returns `None` if no connection is waiting, or if the accepted one was not redirected to
    /// this service; that one is closed and counted in [`refused`](Self::refused).
    ///
    /// It never completes a held connect. With a listener that pends, use it together with
    /// [`try_pended`](Self::try_pended) and [`Pending::complete_nonblocking`].
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn try_accept(&self, socket: usize) -> Result<Option<Connection>, Error> {
        if self.sockets.get(socket).is_none() {
            return Ok(None);
        }
        match self.sockets.try_accept(socket)? {
            Accepted::Connection(connection) => Ok(Some(connection)),
            Accepted::Other | Accepted::None => Ok(None),
        }
    }

    /// Whether connects to this listener are held until the proxy completes or refuses them.
    pub fn is_pended(&self) -> bool {
        self.sockets.pended.is_some()
    }

    /// Why the listener accepts first although its service asked for pended connects. `None` if it
    /// pends, or if the service did not ask: [`Service::pended`] was not called.
    pub fn why_accepted(&self) -> Option<WhyAccepted> {
        self.why_accepted
    }

    /// Waits for the next held connect.
    ///
    /// Several threads may wait; each connect goes to one of them. A client whose SYN was sent
    /// again is the same connect, and is not returned twice.
    ///
    /// ```no_run
    /// use sidetrack::{Error, Listener, Service};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind(&Service::from_env()?.pended())?;
    /// loop {
    ///     let pending = listener.pended()?;
    ///     std::thread::spawn(move || -> Result<(), Error> {
    ///         match pending.connect() {
    ///             Ok(origin) => {
    ///                 let client = pending.complete(&origin)?;
    ///                 # let _ = client;
    ///                 // ... copy bytes between `client` and `origin` ...
    ///             }
    ///             Err(Error::System { source, .. }) => pending.refuse(&source)?,
    ///             Err(error) => return Err(error), // dropped: the connect is refused
    ///         }
    ///         Ok(())
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::NotPended`] if the listener accepts first.
    /// - [`Error::DamagedNotices`] if the ring buffer contains something else than notices. The next
    ///   call goes on behind it.
    /// - [`Error::System`] if `poll` failed.
    pub fn pended(&self) -> Result<Pending, Error> {
        let pended = self.sockets.pended.as_ref().ok_or(Error::NotPended)?;
        // One thread waits at a time: each notice would wake all of them.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.try_pended()? {
                Some(Notice::Pending(pending)) => return Ok(pending),
                Some(Notice::Gone(_)) => {}
                None => {
                    sys::wait_readable(&[pended.notices.ring()])
                        .map_err(Error::system("wait for a held connect"))?;
                }
            }
        }
    }

    /// Returns the next held connect, or the id of a flow whose client is gone. `None` if there is
    /// neither. It is for an event loop that waits for [`pended_fd`](Self::pended_fd).
    ///
    /// # Errors
    ///
    /// As [`pended`](Self::pended).
    pub fn try_pended(&self) -> Result<Option<Notice>, Error> {
        let pended = self.sockets.pended.as_ref().ok_or(Error::NotPended)?;
        Ok(pended.notices.next()?.map(|noticed| match noticed {
            Noticed::Syn(notice, syn) => {
                let (notices, sockets) =
                    (Arc::clone(&pended.notices), Arc::downgrade(&self.sockets));
                Notice::Pending(Pending::new(&notice, syn, notices, sockets))
            }
            Noticed::Gone(flow_id) => {
                self.sockets.client_gone(flow_id);
                Notice::Gone(flow_id)
            }
        }))
    }

    /// The descriptor that is readable while notices wait, for `poll` and `epoll`. Several threads
    /// may wait for it and call [`try_pended`](Self::try_pended) at the same time. `None` if the
    /// listener does not pend.
    pub fn pended_fd(&self) -> Option<BorrowedFd<'_>> {
        let pended = self.sockets.pended.as_ref()?;
        Some(pended.notices.ring())
    }

    /// The listening sockets, IPv4 first. They are non-blocking. Use them to wait for connections,
    /// and to set socket options that accepted sockets inherit.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.listeners().map(AsFd::as_fd)
    }

    /// Number of connections that were closed because they were not redirected to this service.
    pub fn refused(&self) -> u64 {
        self.sockets.refused()
    }

    /// The addresses of the listeners: IPv4, then IPv6 if the host has it.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets
            .listeners()
            .map(TcpListener::local_addr)
            .collect()
    }
}

/// Opens a listener and marks it. Returns whether it pends, which it does if it is asked to and the
/// service may.
fn listen(
    service: &Service,
    address: SocketAddr,
    pends: bool,
) -> Result<(TcpListener, bool), Error> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
        .map_err(Error::system("create the listener's socket"))?;
    // The IPv6 listener is not bound to `lo`: it would find no route for replies to a client whose
    // socket is bound to an address of another device.
    if address.is_ipv4() {
        socket
            .bind_device(Some(b"lo"))
            .map_err(Error::system("bind the listener to the device lo"))?;
    }
    socket
        .bind(&address.into())
        .map_err(Error::system("bind the listener"))?;
    socket.listen(BACKLOG).map_err(Error::system("listen"))?;
    socket
        .set_nonblocking(true)
        .map_err(Error::system("make the listener non-blocking"))?;
    let mark = |option| sys::set_option(socket.as_fd(), option, service.option());
    if pends {
        match mark(kernel::LISTEN_PENDED) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            marked => {
                marked.map_err(listen_error)?;
                return Ok((socket.into(), true));
            }
        }
    }
    mark(kernel::LISTEN).map_err(listen_error)?;
    Ok((socket.into(), false))
}

pub(crate) fn listen_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::NoEngine,
        Some(libc::EINVAL) => Error::BadSecret,
        Some(libc::EADDRINUSE) => Error::OtherListener,
        Some(libc::EPROTONOSUPPORT) => Error::NotTcp,
        _ => Error::System {
            what: "mark the listener as the service's",
            source,
        },
    }
}

/// Turns the error of a host without IPv6 into `None`.
pub(crate) fn none_without_ipv6<T>(made: Result<T, Error>) -> Result<Option<T>, Error> {
    match made {
        Err(Error::System { source, .. }) if is_ipv6_unavailable(&source) => Ok(None),
        made => made.map(Some),
    }
}

fn is_ipv6_unavailable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("addresses", &self.addresses().unwrap_or_default())
            .field("refused", &self.refused())
            .finish()
    }
}
