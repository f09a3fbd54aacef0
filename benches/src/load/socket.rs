//! The TCP sockets of clients and origin, and the epoll instance that waits for them.

use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

use super::EVENTS;

/// The backlog of the listener.
const BACKLOG: i32 = 4096;

/// An epoll instance, and a list for its events.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).context("create an epoll instance")?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    pub(super) fn add(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(token as u64);
        epoll::add(&self.epoll, socket, data, flags).context("register a socket with epoll")
    }

    pub(super) fn change(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(token as u64);
        epoll::modify(&self.epoll, socket, data, flags).context("register a socket with epoll")
    }

    /// Waits at most this many milliseconds, and returns the events. The caller passes the list to
    /// [`recycle`](Self::recycle).
    pub(super) fn wait(&mut self, milliseconds: i64) -> Result<Vec<Event>> {
        self.events.clear();
        let timeout = Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        };
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(std::mem::take(&mut self.events)),
            Err(error) => Err(error).context("wait for sockets"),
        }
    }

    /// Takes the list of events back for the next wait.
    pub(super) fn recycle(&mut self, events: Vec<Event>) {
        self.events = events;
    }
}

/// Opens a listener of the origin.
pub(super) fn listen(address: SocketAddrV4) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("create a listener")?;
    socket
        .set_nonblocking(true)
        .context("make the listener non-blocking")?;
    socket.bind(&address.into()).context("bind the origin")?;
    socket.listen(BACKLOG).context("listen")?;
    Ok(socket.into())
}

/// Starts a non-blocking connect.
pub(crate) fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::IPV4, kind, None).context("create a client's socket")?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error).with_context(|| format!("connect to {address}")),
    }
    Ok(socket.into())
}

/// Accepts the next connection. `None` if none is waiting.
pub(super) fn accept(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("accept"),
    }
}

/// Whether a call failed because it would have to wait.
pub(super) fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
