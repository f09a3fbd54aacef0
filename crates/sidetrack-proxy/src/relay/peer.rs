//! One of the two connections of a relay: its socket, and what that is known to be ready for.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;

use super::pipe::Pipe;
use crate::close_reason::{CloseReason, RelaySide};

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A non-blocking socket whose events are edge-triggered: epoll reports each once.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    side: RelaySide,
    /// Whether there may be something to read; set by an event, cleared when a read finds no more.
    readable: bool,
    /// Whether there may be room to write; set by an event, cleared when a write finds too little.
    writable: bool,
    /// Whether an event reported the end of the stream or an error, which a later read will return.
    may_be_at_end: bool,
    /// Whether the sending direction was closed.
    has_half_closed: bool,
    no_delay: NoDelay,
}

/// When TCP_NODELAY is set on a socket. The kernel sends the first bytes at once in any case, so the
/// option is set only before the second send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoDelay {
    BeforeFirstSend,
    BeforeSecondSend,
    Set,
}

impl Peer {
    /// The events for which it waits.
    pub(crate) const EVENTS: EventFlags = EventFlags::IN
        .union(EventFlags::OUT)
        .union(EventFlags::RDHUP)
        .union(EventFlags::ET);

    /// The peer of an accepted socket, which is connected. Its TCP_NODELAY is set already.
    pub(crate) fn client(stream: TcpStream) -> Self {
        Self::new(stream, RelaySide::Client, NoDelay::Set)
    }

    /// The peer of a socket to the origin, whose connect may be in progress.
    pub(crate) fn origin(stream: TcpStream) -> Self {
        Self::new(stream, RelaySide::Origin, NoDelay::BeforeFirstSend)
    }

    fn new(stream: TcpStream, side: RelaySide, no_delay: NoDelay) -> Self {
        Self {
            stream,
            side,
            readable: false,
            writable: side == RelaySide::Client,
            may_be_at_end: false,
            has_half_closed: false,
            no_delay,
        }
    }

    /// Notes the flags of an event.
    pub(crate) fn note(&mut self, events: EventFlags) {
        self.writable |= events.contains(EventFlags::OUT);
        self.may_be_at_end |=
            events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.readable |= events.contains(EventFlags::IN) || self.may_be_at_end;
    }

    /// Whether its connect has finished. Errors: the one with which it failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if self.may_be_at_end
            && let Some(error) = self.stream.take_error()?
        {
            return Err(error);
        }
        Ok(self.writable || self.may_be_at_end)
    }

    /// Whether the end of the stream may follow what is there to be read.
    pub(crate) fn may_be_at_end(&self) -> bool {
        self.may_be_at_end
    }

    /// Reads once into `buffer`. Returns the number of bytes: 0 at the end of the stream, `None` if
    /// there is nothing for now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, CloseReason> {
        if !self.readable {
            return Ok(None);
        }
        let size = buffer.len();
        match retry_on_intr(|| recv(&self.stream, &mut *buffer, RecvFlags::empty())) {
            Ok((_, length)) => {
                // After a short read the socket is empty: another call would find nothing.
                self.readable = length == size || length == 0 || self.may_be_at_end;
                Ok(Some(length))
            }
            Err(error) => self.after_failed_read(error),
        }
    }

    /// Moves what there is to read into an empty pipe. Returns the same as
    /// [`receive`](Self::receive).
    pub(crate) fn fill(&mut self, pipe: &Pipe) -> Result<Option<usize>, CloseReason> {
        if !self.readable {
            return Ok(None);
        }
        let (stream, size) = (&self.stream, pipe.size);
        match retry_on_intr(|| splice(stream, None, &pipe.write, None, size, FLAGS)) {
            Ok(length) => Ok(Some(length)),
            Err(error) => self.after_failed_read(error),
        }
    }

    fn after_failed_read(&mut self, error: Errno) -> Result<Option<usize>, CloseReason> {
        match error {
            Errno::AGAIN => {
                self.readable = false;
                Ok(None)
            }
            error => Err(self.close_reason(error)),
        }
    }

    /// Writes as many of the bytes as the socket has room for. Returns how many.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, CloseReason> {
        self.send_with(bytes, SendFlags::NOSIGNAL)
    }

    /// The same for the last bytes. They leave together with the half-close, which the caller does
    /// next.
    pub(crate) fn send_last(&mut self, bytes: &[u8]) -> Result<usize, CloseReason> {
        self.send_with(bytes, SendFlags::NOSIGNAL | SendFlags::MORE)
    }

    fn send_with(&mut self, bytes: &[u8], flags: SendFlags) -> Result<usize, CloseReason> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.advance_no_delay();
        let stream = &self.stream;
        let sent = retry_on_intr(|| send(stream, bytes, flags));
        let sent = self.after_send(sent)?;
        // After a partial write the socket is full, and the kernel reports when there is room again.
        self.writable = sent == bytes.len();
        Ok(sent)
    }

    /// Moves up to `left` bytes from the pipe to the socket. Returns how many; 0 if there is no room.
    pub(crate) fn drain(&mut self, pipe: &Pipe, left: usize) -> Result<usize, CloseReason> {
        self.advance_no_delay();
        // With a larger length than what is left, the kernel would expect more and hold back a
        // segment.
        let stream = &self.stream;
        let moved = retry_on_intr(|| splice(&pipe.read, None, stream, None, left, FLAGS));
        match self.after_send(moved) {
            // Trying again would spin.
            Ok(0) if self.writable => Err(CloseReason::Failed(self.side, io::ErrorKind::WriteZero)),
            sent => sent,
        }
    }

    /// Called before each send: sets TCP_NODELAY before the second one.
    fn advance_no_delay(&mut self) {
        match self.no_delay {
            NoDelay::BeforeFirstSend => self.no_delay = NoDelay::BeforeSecondSend,
            NoDelay::BeforeSecondSend => {
                let _ = self.stream.set_nodelay(true); // fails only if the connection is gone
                self.no_delay = NoDelay::Set;
            }
            NoDelay::Set => {}
        }
    }

    fn after_send(&mut self, sent: Result<usize, Errno>) -> Result<usize, CloseReason> {
        match sent {
            Ok(length) => Ok(length),
            Err(Errno::AGAIN) => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => Err(self.close_reason(error)),
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Closes the sending direction, if that was not done before.
    pub(crate) fn half_close(&mut self) -> Result<(), CloseReason> {
        if std::mem::replace(&mut self.has_half_closed, true) {
            return Ok(());
        }
        let done = self.stream.shutdown(Shutdown::Write);
        done.map_err(|error| CloseReason::from_io(self.side, &error))
    }

    /// Makes the close deliver what was sent, instead of resetting the connection as
    /// [`prepare`](crate::connection::prepare) has set it.
    pub(crate) fn deliver_on_close(&self) {
        let _ = SockRef::from(&self.stream).set_linger(None); // cannot fail on a TCP socket
    }

    fn close_reason(&self, error: Errno) -> CloseReason {
        CloseReason::from_io(self.side, &error.into())
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
