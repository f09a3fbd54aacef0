//! One direction of a relay.

use super::peer::Peer;
use super::pipe::{Pipe, Pipes};
use crate::close_reason::CloseReason;

/// What is read at once where bytes are copied. Who has filled it has more: that goes through a pipe.
pub const COPY_SIZE: usize = 16 * 1024;
/// So many chunks of one direction are moved, then it is another connection's turn.
pub const CHUNKS_MAX: usize = 8;

/// How far an advance came, see `Connection::advance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing more can be done before the next event.
    Waiting,
    /// More can be done at once, after the other connections had their share.
    Ready,
}

/// Bytes on their way from one peer to the other.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// What the receiver has taken.
    count: u64,
    unsent: Unsent,
    /// Whether the last chunk was a large one.
    last_chunk_large: bool,
    is_finished: bool,
}

/// What was read, and the receiver had no room for.
#[derive(Debug, Default)]
enum Unsent {
    #[default]
    Nothing,
    Bytes(Box<[u8]>),
    Pipe(Pipe, usize),
}

impl Direction {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether the sender has ended and the receiver has taken all it sent.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Moves bytes until one of the two has no more, or no room.
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

    /// Hands over bytes that were read otherwise. Call it only after a [`flush`](Self::flush).
    pub(crate) fn send(&mut self, bytes: &[u8], to: &mut Peer) -> Result<(), CloseReason> {
        let sent = to.send(bytes)?;
        self.count_sent(bytes, sent);
        Ok(())
    }

    fn count_sent(&mut self, bytes: &[u8], sent: usize) {
        self.count += sent as u64;
        if sent < bytes.len() {
            self.unsent = Unsent::Bytes(bytes[sent..].into());
        }
    }

    /// Whether nothing is held any more.
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

    /// Reads one chunk, and hands it over as far as there is room; 0 at the end.
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
        next.map(|_| Some(length)) // an error is told after the bytes before it
    }

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
