//! Relays datagrams: one event loop carries all UDP flows of a service.
//!
//! ```text
//!            ┌─ listener ─ batch ─ Inspection::on_client_datagram ─ send ─▶ one connected socket
//!   clients ─┤                                                              for each flow, with
//!            └◀─ batch ─────────── Inspection::on_origin_datagram ◀─ recv ─ its records
//! ```
//!
//! The loop never waits for space in a socket's buffer. Where a buffer is full, datagrams are lost,
//! as on any network, and counted. Datagrams of a client are held back only while a QUIC
//! ClientHello that a rule may deny is incomplete.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use sidetrack::Error;

use crate::names::Names;
use crate::outcome::{Datagrams, Outcome};
use crate::reactor::{AfterListener, EventHandler, NoTimer, Reactor, Stop};
use crate::settings::Settings;

mod answers;
mod flow_table;
mod inspection;
mod queries;
mod source;
mod udp_flow;

use flow_table::FlowTable;
use source::{ClientDatagram, DatagramSource};
use udp_flow::{FlowRegistry, FlowSocket};

pub use flow_table::{FLOWS_MAX, ROOM_SHARE};
pub use inspection::{DNS_PORT, HELD_BACK_SIZE_MAX, INSPECTED_MAX, PENDING_MAX};
pub use queries::{ADDRESSES_MAX, QUERIES_MAX};
pub use udp_flow::{DENIED_IDLE, FINISHED_IDLE, READS_MAX};

/// How often the loop looks for flows that have ended.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// The number of datagrams that are received from clients at once.
pub const BATCH_SIZE: usize = 64;
/// The size of a receive buffer, in bytes; no datagram is longer.
pub const DATAGRAM_SIZE_MAX: usize = 65_536;

/// What the loop does, for its errors.
const WAIT: &str = "wait for datagrams";

/// What happened to datagrams and is on no flow line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Number of datagrams that were dropped because they were not redirected to this service.
    pub refused: u64,
    /// Number of datagrams that the kernel dropped because the listener's receive buffer was full.
    pub overflowed: u64,
    /// Number of flows that ended because new ones needed their place.
    pub made_room: u64,
    /// Number of errors of origins, and on the way there, that could not be reported to the clients.
    pub unreported: u64,
}

/// The event loop for datagrams, see the module's description.
pub(crate) struct DatagramLoop<'a, S: DatagramSource> {
    reactor: Reactor<'a, FlowSocket, NoTimer>,
    relay: DatagramRelay<'a, S>,
}

/// The flows of the loop, and the buffers for their clients' datagrams.
struct DatagramRelay<'a, S: DatagramSource> {
    source: &'a S,
    batch: S::Batch,
    flows: FlowTable<'a, S>,
}

impl<'a, S: DatagramSource> DatagramLoop<'a, S> {
    /// Makes a loop that relays the datagrams of `source`. `on_end` is called with each flow's
    /// outcome after its end. The addresses in DNS responses are learnt in `names`.
    ///
    /// Errors: [`Error::System`], if the kernel refuses what an event loop needs.
    pub(crate) fn new(
        source: &'a S,
        settings: &'a Settings,
        names: &'a Mutex<Names>,
        stop: &'a Stop,
        on_end: &'a dyn Fn(&S::Flow, Outcome, Datagrams),
    ) -> Result<Self, Error> {
        Ok(Self {
            reactor: Reactor::new(WAIT, source.sockets(), SWEEP_INTERVAL, stop)?,
            relay: DatagramRelay {
                source,
                batch: source.new_batch(),
                flows: FlowTable::new(source, settings, names, on_end),
            },
        })
    }

    /// Runs until the loop was stopped and its flows have ended. Returns the counts that the loop
    /// knows: `made_room` and `unreported`.
    ///
    /// Errors: one after which receiving cannot work again; [`Error::System`], if waiting for
    /// events fails.
    pub(crate) fn run(mut self) -> Result<Counts, Error> {
        self.reactor.run(&mut self.relay)?;
        Ok(self.relay.flows.counts())
    }
}

impl<S: DatagramSource> EventHandler for DatagramRelay<'_, S> {
    type Socket = FlowSocket;
    type Timer = NoTimer;

    /// Receives a batch from one of the listener's sockets, and relays it.
    fn listener_ready(
        &mut self,
        socket: usize,
        registry: &mut FlowRegistry,
    ) -> Result<AfterListener, Error> {
        let received = self.source.receive(socket, &mut self.batch);
        let after = after_receive(received)?;
        let datagrams: Vec<ClientDatagram<'_, S::Flow>> = S::datagrams(&self.batch).collect();
        for run in datagrams.chunk_by(|a, b| Arc::ptr_eq(a.flow, b.flow)) {
            self.flows.relay_run(run[0].flow, run, registry);
        }
        Ok(after)
    }

    fn socket_ready(&mut self, socket: FlowSocket, _: EventFlags, registry: &mut FlowRegistry) {
        self.flows.receive_from_origin(socket, registry);
    }

    fn events_handled(&mut self, _: &mut FlowRegistry) {
        self.flows.send_answers();
    }

    fn timer_expired(&mut self, timer: NoTimer, _: &mut FlowRegistry) {
        match timer {}
    }

    fn check(&mut self, now: Instant) {
        self.flows.sweep(now);
    }

    fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn end_all(&mut self, now: Instant) {
        self.flows.end_all(now);
    }
}

/// What the loop does with its listener after `received`. Errors: one after which receiving cannot
/// work again.
fn after_receive(received: Result<(), Error>) -> Result<AfterListener, Error> {
    match received {
        Ok(()) => Ok(AfterListener::Continue),
        Err(Error::System { source, .. }) => match source.kind() {
            io::ErrorKind::WouldBlock => Ok(AfterListener::Continue),
            io::ErrorKind::InvalidInput => Err(Error::NoEngine),
            _ => Ok(AfterListener::Pause),
        },
        Err(Error::NoContext) => Ok(AfterListener::Pause),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
