//! A batch of datagrams that were received together.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::ffi;
use crate::{Flow, Records};

/// Buffers for datagrams that are received together. Reuse one batch for many calls.
#[derive(Debug)]
pub struct Batch {
    /// Payloads, `size` bytes for each datagram.
    buffer: Box<[u8]>,
    /// Longest payload in bytes.
    size: usize,
    receive_buffers: ffi::ReceiveBuffers,
    entries: Vec<BatchEntry>,
}

#[derive(Debug)]
struct BatchEntry {
    /// Index of the payload's first byte in `buffer`.
    start: usize,
    /// Length of the payload in bytes.
    length: usize,
    truncated: bool,
    first: bool,
    flow: Arc<Flow>,
}

/// A received datagram with its flow.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    entry: &'a BatchEntry,
    payload: &'a [u8],
}

impl Batch {
    /// Creates buffers for `datagrams` datagrams of at most `size` bytes each. A longer datagram is
    /// truncated; see [`Datagram::is_truncated`].
    pub fn new(datagrams: usize, size: usize) -> Self {
        let size = size.max(1);
        Self {
            buffer: vec![0; datagrams.max(1) * size].into(),
            size,
            receive_buffers: ffi::ReceiveBuffers::new(datagrams.max(1)),
            entries: Vec::with_capacity(datagrams),
        }
    }

    /// The datagrams of the last call, in the order in which they arrived.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Datagram<'_>> {
        self.entries.iter().map(|entry| Datagram {
            entry,
            payload: &self.buffer[entry.start..entry.start + entry.length],
        })
    }

    /// Whether the batch has no datagram.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Receives into the buffers. Returns the index and the metadata of each datagram; the caller
    /// passes those that were redirected to `add`.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Vec<(usize, ffi::DatagramMetadata)>> {
        self.entries.clear();
        let mut arrived = Vec::new();
        let deliver = |index, metadata| arrived.push((index, metadata));
        self.receive_buffers
            .receive(socket, &mut self.buffer, self.size, deliver)?;
        Ok(arrived)
    }

    pub(super) fn add(
        &mut self,
        index: usize,
        metadata: &ffi::DatagramMetadata,
        flow: Arc<Flow>,
        first: bool,
    ) {
        self.entries.push(BatchEntry {
            start: index * self.size,
            length: metadata.length,
            truncated: metadata.truncated,
            first,
            flow,
        });
    }
}

impl<'a> Datagram<'a> {
    /// The payload, truncated to the size of the batch.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the datagram was longer than the batch has space for.
    pub fn is_truncated(&self) -> bool {
        self.entry.truncated
    }

    /// The flow of the datagram: its original destination, the program, the context and the
    /// records.
    pub fn flow(&self) -> &'a Arc<Flow> {
        &self.entry.flow
    }

    /// Whether this is the first datagram of its flow.
    pub fn is_first(&self) -> bool {
        self.entry.first
    }

    /// The redirect records, for the first datagram of a flow; `None` for the others.
    ///
    /// This is how Windows delivers the control data IP_WFP_REDIRECT_RECORDS (docs/wfp.md, 2.2).
    /// [`Flow::records`] returns them at any time.
    pub fn records(&self) -> Option<Records> {
        self.entry.first.then(|| self.entry.flow.records())
    }

    /// The redirect context, for the first datagram of a flow whose filter gave one; `None`
    /// otherwise.
    ///
    /// This is how Windows delivers the control data IP_WFP_REDIRECT_CONTEXT (docs/wfp.md, 2.2).
    /// [`Flow::context`] returns it at any time.
    pub fn context(&self) -> Option<&'a [u8]> {
        self.entry.flow.context().filter(|_| self.entry.first)
    }
}
