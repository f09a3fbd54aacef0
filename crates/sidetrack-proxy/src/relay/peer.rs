//! One of the two connections, and what it is known to be ready for.

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

/// A non-blocking connection whose events come once each (edge-triggered).
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    side: RelaySide,
    /// Whether there may be something to read: until a read finds nothing more.
    readable: bool,
    /// Whether there may be room to write.
    writable: bool,
    /// Whether its end, or an error, is among what there is to read.
    may_be_at_end: bool,
    /// Whether it was told that no more will come.
    has_half_closed: bool,
    no_delay: NoDelay,
}

/// Whether it sends what there is to send at once (TCP_NODELAY). The first bytes are sent at once in any
/// case: only who sends again has to ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoDelay {
    BeforeFirstSend,
    BeforeSecondSend,
    Set,
}

impl Peer {
    /// What it waits for.
    pub(crate) const EVENTS: EventFlags = EventFlags::IN
        .union(EventFlags::OUT)
        .union(EventFlags::RDHUP)
        .union(EventFlags::ET);

    /// Of the client: connected.
    pub(crate) fn client(stream: TcpStream) -> Self {
        Self::new(stream, RelaySide::Client, NoDelay::Set)
    }

    /// Of the origin: its connect is under way.
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

    /// Notes an event.
    pub(crate) fn note(&mut self, events: EventFlags) {
        self.writable |= events.contains(EventFlags::OUT);
        self.may_be_at_end |=
            events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.readable |= events.contains(EventFlags::IN) || self.may_be_at_end;
    }

    /// Whether its connect has come to an end; the error if it failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if self.may_be_at_end
            && let Some(error) = self.stream.take_error()?
        {
            return Err(error);
        }
        Ok(self.writable || self.may_be_at_end)
    }

    /// Whether its end may be what there is to read next.
    pub(crate) fn may_be_at_end(&self) -> bool {
        self.may_be_at_end
    }

    /// Reads once; 0 at the end, `None` if there is nothing yet.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, CloseReason> {
        if !self.readable {
            return Ok(None);
        }
        let size = buffer.len();
        match retry_on_intr(|| recv(&self.stream, &mut *buffer, RecvFlags::empty())) {
            Ok((_, length)) => {
                // What did not fill the room was all there is: the next call would find nothing.
                self.readable = length == size || length == 0 || self.may_be_at_end;
                Ok(Some(length))
            }
            Err(error) => self.after_failed_read(error),
        }
    }

    /// Moves what there is into an empty pipe; as [`receive`](Self::receive).
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

    /// Writes what there is room for.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, CloseReason> {
        self.send_with(bytes, SendFlags::NOSIGNAL)
    }

    /// The same with the last bytes: they leave together with the end, which the caller sends next.
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
        // A part only: there was no room for more, and the kernel knows that it is waited for.
        self.writable = sent == bytes.len();
        Ok(sent)
    }

    /// Moves up to `left` bytes out of the pipe; 0 if there is no room.
    pub(crate) fn drain(&mut self, pipe: &Pipe, left: usize) -> Result<usize, CloseReason> {
        self.advance_no_delay();
        // Exactly what is left, lest the kernel holds back a segment for more to come.
        let stream = &self.stream;
        let moved = retry_on_intr(|| splice(&pipe.read, None, stream, None, left, FLAGS));
        match self.after_send(moved) {
            Ok(0) if self.writable => Err(CloseReason::Failed(self.side, io::ErrorKind::WriteZero)), // would spin
            sent => sent,
        }
    }

    fn advance_no_delay(&mut self) {
        match self.no_delay {
            NoDelay::BeforeFirstSend => self.no_delay = NoDelay::BeforeSecondSend,
            NoDelay::BeforeSecondSend => {
                let _ = self.stream.set_nodelay(true); // fails only on a connection that is gone
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

    /// Tells the peer that no more will come, if it was not told before.
    pub(crate) fn half_close(&mut self) -> Result<(), CloseReason> {
        if std::mem::replace(&mut self.has_half_closed, true) {
            return Ok(());
        }
        let done = self.stream.shutdown(Shutdown::Write);
        done.map_err(|error| CloseReason::from_io(self.side, &error))
    }

    /// Lets what was sent be delivered still when it is closed, instead of a reset; see
    /// [`prepare`](crate::connection::prepare).
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
