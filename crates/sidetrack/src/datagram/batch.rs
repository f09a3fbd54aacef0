//! Datagrams received together.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::ffi;
use crate::{Flow, Records};

/// Room for datagrams that are received together. To be used again and again.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    size: usize,
    inbox: ffi::Inbox,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    start: usize,
    length: usize,
    truncated: bool,
    first: bool,
    flow: Arc<Flow>,
}

/// A datagram, and the flow it is of.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    entry: &'a Entry,
    payload: &'a [u8],
}

impl Batch {
    /// Room for so many datagrams of at most `size` bytes each; longer ones are cut, and say so.
    pub fn new(datagrams: usize, size: usize) -> Self {
        let size = size.max(1);
        Self {
            buffer: vec![0; datagrams.max(1) * size].into(),
            size,
            inbox: ffi::Inbox::new(datagrams.max(1)),
            entries: Vec::with_capacity(datagrams),
        }
    }

    /// The datagrams in it, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Datagram<'_>> {
        self.entries.iter().map(|entry| Datagram {
            entry,
            payload: &self.buffer[entry.start..entry.start + entry.length],
        })
    }

    /// There is none in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Vec<(usize, ffi::Envelope)>> {
        self.entries.clear();
        let mut arrived = Vec::new();
        let put = |index, envelope| arrived.push((index, envelope));
        self.inbox
            .receive(socket, &mut self.buffer, self.size, put)?;
        Ok(arrived)
    }

    pub(super) fn add(
        &mut self,
        index: usize,
        envelope: &ffi::Envelope,
        flow: Arc<Flow>,
        first: bool,
    ) {
        self.entries.push(Entry {
            start: index * self.size,
            length: envelope.length,
            truncated: envelope.truncated,
            first,
            flow,
        });
    }
}

impl<'a> Datagram<'a> {
    /// What it says.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// It was longer than the batch has room for.
    pub fn is_truncated(&self) -> bool {
        self.entry.truncated
    }

    /// Whose it is, and where it was going.
    pub fn flow(&self) -> &'a Arc<Flow> {
        &self.entry.flow
    }

    /// The first of its flow.
    pub fn is_first(&self) -> bool {
        self.entry.first
    }

    /// The redirect records, as IP_WFP_REDIRECT_RECORDS has them: with a flow's first datagram only
    /// (specification, 2.2).
    pub fn records(&self) -> Option<Records> {
        self.entry.first.then(|| self.entry.flow.records())
    }

    /// The redirect context, as IP_WFP_REDIRECT_CONTEXT has it: with a flow's first datagram only, if
    /// its filter gave one.
    pub fn context(&self) -> Option<&'a [u8]> {
        self.entry.flow.context().filter(|_| self.entry.first)
    }
}
