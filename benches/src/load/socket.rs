//! Sockets of either end, and the epoll they are waited for with.

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

/// Connections ready before accept.
const BACKLOG: i32 = 4096;

/// An epoll, with room for what it tells.
pub(super) struct Waiter {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Waiter {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).context("make an epoll")?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    pub(super) fn add(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(token as u64);
        epoll::add(&self.epoll, socket, data, flags).context("wait for a socket")
    }

    pub(super) fn change(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(token as u64);
        epoll::modify(&self.epoll, socket, data, flags).context("wait for a socket")
    }

    /// The tokens of what is ready, within so many milliseconds. The caller gives the list back.
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

    pub(super) fn give_back(&mut self, events: Vec<Event>) {
        self.events = events;
    }
}

/// A listener of the origin's.
pub(super) fn listen(address: SocketAddrV4) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("make a listener")?;
    socket.set_nonblocking(true).context("not block")?;
    socket.bind(&address.into()).context("bind the origin")?;
    socket.listen(BACKLOG).context("listen")?;
    Ok(socket.into())
}

/// Begins to connect.
pub(super) fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::IPV4, kind, None).context("make a client's socket")?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error).with_context(|| format!("connect to {address}")),
    }
    Ok(socket.into())
}

/// The next one in the queue.
pub(super) fn accept(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("accept"),
    }
}

/// Whether a call has to wait.
pub(super) fn blocks<T>(done: &io::Result<T>) -> bool {
    matches!(done, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
