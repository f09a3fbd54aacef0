//! Answers that wait to be sent to the clients, many in one system call.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use sidetrack::Error;

use super::DATAGRAM_SIZE_MAX;
use super::source::DatagramSource;
use crate::upstream::DatagramUpstream;

/// The number of answers that are sent at once.
const ANSWERS_MAX: usize = 64;
/// The number of bytes in the answers that are sent at once.
const BYTES_MAX: usize = 8 * DATAGRAM_SIZE_MAX;

/// Received answers, and to which flows' clients they go.
pub(super) struct AnswerQueue<F> {
    buffer: Box<[u8]>,
    /// How many bytes of `buffer` hold answers.
    used: usize,
    /// Each answer's flow and its place in `buffer`.
    queued: Vec<(Arc<F>, Range<usize>)>,
}

impl<F> Default for AnswerQueue<F> {
    fn default() -> Self {
        Self {
            buffer: vec![0; BYTES_MAX].into(),
            used: 0,
            queued: Vec::with_capacity(ANSWERS_MAX),
        }
    }
}

impl<F: DatagramUpstream> AnswerQueue<F> {
    /// Whether there is no space for another answer of the largest size.
    pub(super) fn is_full(&self) -> bool {
        self.queued.len() >= ANSWERS_MAX || BYTES_MAX - self.used < DATAGRAM_SIZE_MAX
    }

    /// The free part of the buffer, into which the next answer is received.
    pub(super) fn free_space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Adds the first `length` bytes of [`free_space`](Self::free_space) as an answer to the flow's
    /// client. Returns these bytes.
    pub(super) fn add(&mut self, flow: &Arc<F>, length: usize) -> &[u8] {
        let bytes = self.used..self.used + length;
        self.used = bytes.end;
        self.queued.push((Arc::clone(flow), bytes.clone()));
        &self.buffer[bytes]
    }

    /// Sends all answers. Calls `count` for each, with its flow's id, its length, and whether it was
    /// sent: if not, it is lost.
    pub(super) fn send(
        &mut self,
        source: &impl DatagramSource<Flow = F>,
        mut count: impl FnMut(u64, usize, bool),
    ) {
        let answers: Vec<(&F, &[u8])> = (self.queued.iter())
            .map(|(flow, bytes)| (&**flow, &self.buffer[bytes.clone()]))
            .collect();
        let mut count = |(flow, bytes): &(&F, &[u8]), sent| count(flow.id(), bytes.len(), sent);
        let mut rest = &answers[..];
        while !rest.is_empty() {
            let (sent, is_full) = match source.answer_all(rest) {
                Ok(sent) => (sent, false),
                Err(error) => (0, is_full(&error)),
            };
            rest[..sent].iter().for_each(|one| count(one, true));
            // The next answer cannot be sent. If the socket's buffer is full, no other one can
            // either.
            let lost = if is_full {
                rest.len()
            } else {
                (sent + 1).min(rest.len())
            };
            rest[sent..lost].iter().for_each(|one| count(one, false));
            rest = &rest[lost..];
        }
        self.queued.clear();
        self.used = 0;
    }
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::System { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
}
