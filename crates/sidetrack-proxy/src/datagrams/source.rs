//! Where an event loop for datagrams receives them, and how it answers.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use sidetrack::{Batch, DatagramListener, Error, Flow, Unreachable};

use super::{BATCH_SIZE, DATAGRAM_SIZE_MAX};
use crate::upstream::DatagramUpstream;

/// Receives the datagrams of clients for a [`DatagramLoop`](super::DatagramLoop), and sends to the
/// clients.
pub(crate) trait DatagramSource {
    /// A UDP flow, which is also the way to its origin.
    type Flow: DatagramUpstream + 'static;
    /// Buffers for the datagrams of one [`receive`](Self::receive).
    type Batch;

    /// The listening sockets, which are non-blocking: readable when a datagram has arrived.
    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>>;

    /// Makes buffers.
    fn new_batch(&self) -> Self::Batch;

    /// Receives into `batch`, from the socket with this index in [`sockets`](Self::sockets).
    ///
    /// Errors: as [`DatagramListener::try_receive`]. `batch` has the datagrams that were received
    /// before the error.
    fn receive(&self, socket: usize, batch: &mut Self::Batch) -> Result<(), Error>;

    /// The datagrams in `batch`, in the order in which they arrived.
    fn datagrams(batch: &Self::Batch) -> impl Iterator<Item = ClientDatagram<'_, Self::Flow>>;

    /// Sends answers to the clients of flows, as [`DatagramListener::answer_all`].
    fn answer_all(&self, answers: &[(&Self::Flow, &[u8])]) -> Result<usize, Error>;

    /// Reports to the client of a flow that its datagrams do not arrive.
    fn report(&self, flow: &Self::Flow, why: Unreachable) -> Result<(), Error>;

    /// Called when a flow has ended.
    fn forget(&self, flow: &Self::Flow);
}

/// A datagram from the client of a flow.
pub(crate) struct ClientDatagram<'a, F> {
    pub(crate) flow: &'a Arc<F>,
    pub(crate) payload: &'a [u8],
}

impl DatagramSource for DatagramListener {
    type Flow = Flow;
    type Batch = Batch;

    fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets()
    }

    fn new_batch(&self) -> Batch {
        Batch::new(BATCH_SIZE, DATAGRAM_SIZE_MAX)
    }

    fn receive(&self, socket: usize, batch: &mut Batch) -> Result<(), Error> {
        self.try_receive(socket, batch)
    }

    fn datagrams(batch: &Batch) -> impl Iterator<Item = ClientDatagram<'_, Flow>> {
        batch.iter().map(|datagram| ClientDatagram {
            flow: datagram.flow(),
            payload: datagram.payload(),
        })
    }

    fn answer_all(&self, answers: &[(&Flow, &[u8])]) -> Result<usize, Error> {
        self.answer_all(answers)
    }

    fn report(&self, flow: &Flow, why: Unreachable) -> Result<(), Error> {
        self.report(flow, why)
    }

    fn forget(&self, flow: &Flow) {
        self.forget(flow);
    }
}
