//! One direction of a relay.

use super::peer::Peer;
use super::pipe::{Pipe, Pipes};
use crate::close_reason::CloseReason;

/// How many bytes are read at once where they are copied. After a read that fills the buffer, more is
/// waiting, so the next chunk goes through a pipe.
pub const COPY_SIZE: usize = 16 * 1024;
/// How many chunks of one direction are moved before other connections are served.
pub const CHUNKS_MAX: usize = 8;

/// Whether a connection can continue without an event, see `Connection::advance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing more can be done before the next event.
    Waiting,
    /// More can be done at once, after other connections were served.
    Ready,
}

/// One direction of a relay, from a sending to a receiving peer.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// Number of bytes that the receiver's socket has taken.
    count: u64,
    unsent: Unsent,
    /// Whether the last chunk filled the copy buffer, so that the next one goes through a pipe.
    last_chunk_large: bool,
    /// See [`is_finished`](Self::is_finished).
    is_finished: bool,
}

/// What was read from the sender, but did not fit into the receiver's socket.
#[derive(Debug, Default)]
enum Unsent {
    #[default]
    Nothing,
    Bytes(Box<[u8]>),
    /// A pipe with this number of bytes in it.
    Pipe(Pipe, usize),
}

impl Direction {
    /// Number of bytes that the receiver's socket has taken.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether the sender has closed its direction and the receiver's socket has taken all bytes.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Moves bytes until the sender has no more for now or the receiver's socket is full,
    /// [`CHUNKS_MAX`] chunks at most.
    pub(crate) fn pump(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        copy_buffer: &mut [u8],
        pipes: &mut Pipes,
    ) -> Result<Progress, CloseReason> {
        for _ in 0..CHUNKS_MAX {
            if self.is_finished || !self.flush(to, pipes)? {
                return Ok(Progress::Waiting);
            }
            match self.transfer_chunk(from, to, copy_buffer, pipes)? {
                None => return Ok(Progress::Waiting),
                Some(0) => self.is_finished = true,
                Some(length) => self.last_chunk_large = length >= COPY_SIZE,
            }
        }
        Ok(Progress::Ready)
    }

    /// Sends bytes, and keeps those for which the receiver's socket has no room. Call it only after
    /// [`flush`](Self::flush) has returned true.
    pub(crate) fn send(&mut self, bytes: &[u8], to: &mut Peer) -> Result<(), CloseReason> {
        let sent = to.send(bytes)?;
        self.count_sent(bytes, sent);
        Ok(())
    }

    /// Counts the first `sent` bytes, and keeps the rest.
    fn count_sent(&mut self, bytes: &[u8], sent: usize) {
        self.count += sent as u64;
        if sent < bytes.len() {
            self.unsent = Unsent::Bytes(bytes[sent..].into());
        }
    }

    /// Sends what was kept. Returns whether nothing is left of it.
    pub(crate) fn flush(&mut self, to: &mut Peer, pipes: &mut Pipes) -> Result<bool, CloseReason> {
        if matches!(self.unsent, Unsent::Nothing) {
            return Ok(true);
        }
        if !to.is_writable() {
            return Ok(false);
        }
        match std::mem::take(&mut self.unsent) {
            Unsent::Nothing => {}
            Unsent::Bytes(bytes) => self.send(&bytes, to)?,
            Unsent::Pipe(pipe, left) => self.drain_pipe(pipe, left, to, pipes)?,
        }
        Ok(matches!(self.unsent, Unsent::Nothing))
    }

    /// Reads one chunk and sends as much of it as the receiver's socket has room for. Returns its
    /// length: 0 at the end of the stream, `None` if there is nothing to read for now.
    fn transfer_chunk(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        copy_buffer: &mut [u8],
        pipes: &mut Pipes,
    ) -> Result<Option<usize>, CloseReason> {
        if self.last_chunk_large
            && let Some(pipe) = pipes.borrow()
        {
            let filled = from.fill(&pipe)?;
            match filled {
                None | Some(0) => pipes.give_back(pipe),
                Some(length) => self.drain_pipe(pipe, length, to, pipes)?,
            }
            return Ok(filled);
        }
        self.copy(from, to, copy_buffer)
    }

    /// As [`transfer_chunk`](Self::transfer_chunk), through the copy buffer.
    ///
    /// If the end of the stream may follow the chunk, this reads again, so that the last bytes can
    /// leave together with the half-close.
    fn copy(
        &mut self,
        from: &mut Peer,
        to: &mut Peer,
        copy_buffer: &mut [u8],
    ) -> Result<Option<usize>, CloseReason> {
        let (mut length, mut next) = match from.receive(&mut copy_buffer[..COPY_SIZE])? {
            None => return Ok(None),
            Some(0) => return Ok(Some(0)),
            Some(length) => (length, Ok(None)),
        };
        if length < COPY_SIZE && from.may_be_at_end() {
            next = from.receive(&mut copy_buffer[length..COPY_SIZE]);
            length += next.as_ref().ok().and_then(|next| *next).unwrap_or(0);
        }
        if let Ok(Some(0)) = next {
            let sent = to.send_last(&copy_buffer[..length])?;
            self.is_finished = sent == length;
            self.count_sent(&copy_buffer[..length], sent);
        } else {
            self.send(&copy_buffer[..length], to)?;
        }
        next.map(|_| Some(length)) // an error counts only after the bytes before it were sent
    }

    /// Moves the `left` bytes in the pipe to the receiver's socket, and keeps the pipe if it does
    /// not become empty.
    fn drain_pipe(
        &mut self,
        pipe: Pipe,
        mut left: usize,
        to: &mut Peer,
        pipes: &mut Pipes,
    ) -> Result<(), CloseReason> {
        while left > 0 {
            let moved = to.drain(&pipe, left)?;
            if moved == 0 {
                self.unsent = Unsent::Pipe(pipe, left);
                return Ok(());
            }
            self.count += moved as u64;
            left -= moved;
        }
        pipes.give_back(pipe);
        Ok(())
    }
}
