//! Relays datagrams: one event loop serves all UDP flows of a service.
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

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use sidetrack::{Batch, Datagram, DatagramListener, Error, Flow, Service};

use crate::close_reason::CloseReason;
use crate::line::FlowLine;
use crate::names::Names;
use crate::reactor::Poller;
use crate::settings::Settings;

mod answers;
mod inspection;
mod queries;
mod udp_flow;

use answers::AnswerQueue;
use inspection::InspectionContext;
use udp_flow::UdpFlow;

pub use inspection::{DNS_PORT, HELD_BACK_SIZE_MAX, INSPECTED_MAX, PENDING_MAX};
pub use queries::{ADDRESSES_MAX, QUERIES_MAX};
pub(crate) use udp_flow::label;

/// The number of flows at a time; each takes a descriptor. If a new flow finds no place or no
/// descriptor, the flows that have been silent longest end, one in [`ROOM_SHARE`] of all, so that
/// not every new flow has to search for them.
pub const FLOWS_MAX: usize = 16_384;
/// See [`FLOWS_MAX`].
pub const ROOM_SHARE: usize = 64;
/// The idle time-out of a flow that expects no more: all its DNS queries are answered, no process
/// listens on the origin's port, or its socket failed. A later datagram begins a new flow.
pub const FINISHED_IDLE: Duration = Duration::from_secs(1);
/// The idle time-out of a denied flow. Its client does not notice the denial and sends again for
/// some seconds.
pub const DENIED_IDLE: Duration = Duration::from_secs(5);
/// How often the loop looks for flows that have ended.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// The number of datagrams that are received from clients at once.
pub const BATCH_SIZE: usize = 64;
/// The number of datagrams that are received from one origin before other sockets are served.
pub const READS_MAX: usize = 32;
/// The size of a receive buffer, in bytes; no datagram is longer.
pub const DATAGRAM_SIZE_MAX: usize = 65_536;

/// How long the loop sleeps after an error of the listener that may pass.
const LISTENER_PAUSE: Duration = Duration::from_millis(50);
/// Epoll's event data for the stop.
const STOP: u64 = u64::MAX;
/// Epoll's event data for the listener's first socket; the second one's is one less. The socket to
/// an origin has its flow's id, which never grows that large.
const LISTENER: u64 = u64::MAX - 1;

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

/// The UDP listener of a service, ready to [`run`](Self::run).
#[derive(Debug)]
pub(crate) struct DatagramRelay {
    listener: DatagramListener,
    epoll: OwnedFd,
    stop: Arc<OwnedFd>,
    settings: Settings,
    names: Arc<Mutex<Names>>,
}

/// Stops a [`DatagramRelay`] when it is dropped.
pub(crate) struct Stopper(Arc<OwnedFd>);

impl Drop for Stopper {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes()); // the first write to an eventfd cannot fail
    }
}

impl DatagramRelay {
    /// Makes the listener and its epoll.
    pub(crate) fn bind(
        service: &Service,
        settings: Settings,
        names: Arc<Mutex<Names>>,
    ) -> Result<Self, Error> {
        let listener = DatagramListener::bind(service)?;
        let (epoll, stop) = make_epoll(&listener).map_err(wait_error)?;
        Ok(Self {
            listener,
            epoll,
            stop: Arc::new(stop),
            settings,
            names,
        })
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// Relays until it is stopped. Errors: one after which relaying cannot work again.
    pub(crate) fn run(&self, lines: &dyn Fn(FlowLine)) -> Result<Counts, Error> {
        DatagramLoop {
            relay: self,
            lines,
            flows: HashMap::new(),
            answers: AnswerQueue::default(),
            pending: Arc::default(),
            now: Instant::now(),
            made_room: 0,
            unreported: 0,
        }
        .run()
    }
}

/// Makes an epoll that waits for the listener, and an eventfd that stops the loop.
fn make_epoll(listener: &DatagramListener) -> Result<(OwnedFd, OwnedFd), Errno> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
    epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
    for (token, socket) in (0..=LISTENER).rev().zip(listener.sockets()) {
        epoll::add(&epoll, socket, EventData::new_u64(token), EventFlags::IN)?;
    }
    Ok((epoll, stop))
}

fn wait_error(source: Errno) -> Error {
    Error::System {
        what: "wait for datagrams",
        source: source.into(),
    }
}

struct DatagramLoop<'a> {
    relay: &'a DatagramRelay,
    lines: &'a dyn Fn(FlowLine),
    /// The flows, by their id.
    flows: HashMap<u64, UdpFlow>,
    answers: AnswerQueue,
    /// Its reference count is the number of pending flows, and one for the loop; see [`PENDING_MAX`].
    pending: Arc<()>,
    /// The time of the last wake-up, used for all that is done before the next one.
    now: Instant,
    made_room: u64,
    unreported: u64,
}

impl DatagramLoop<'_> {
    fn run(mut self) -> Result<Counts, Error> {
        let mut batch = Batch::new(BATCH_SIZE, DATAGRAM_SIZE_MAX);
        let mut poller = Poller::new();
        let mut last_sweep = self.now;
        loop {
            let sweep = (!self.flows.is_empty()).then(|| Instant::now() + SWEEP_INTERVAL);
            let woken = poller.wait(&self.relay.epoll, sweep);
            let woken = woken.map_err(wait_error)?;
            self.now = woken.time;
            for event in woken.events {
                match event.data.u64() {
                    STOP => {
                        self.answers.send(&self.relay.listener, &mut self.flows);
                        return Ok(self.stop());
                    }
                    token if token > LISTENER - 2 => {
                        self.receive_from_clients((LISTENER - token) as usize, &mut batch)?;
                    }
                    flow => self.receive_from_origin(flow),
                }
            }
            self.answers.send(&self.relay.listener, &mut self.flows);
            if self.now.duration_since(last_sweep) >= SWEEP_INTERVAL {
                last_sweep = self.now;
                self.sweep();
            }
        }
    }

    /// Receives a batch from one of the listener's sockets, and relays it.
    fn receive_from_clients(&mut self, socket: usize, batch: &mut Batch) -> Result<(), Error> {
        match self.relay.listener.try_receive(socket, batch) {
            Ok(()) => {}
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                return Err(Error::NoEngine);
            }
            Err(Error::System { .. } | Error::NoContext) => thread::sleep(LISTENER_PAUSE),
            Err(error) => return Err(error),
        }
        let datagrams: Vec<Datagram<'_>> = batch.iter().collect();
        for run in datagrams.chunk_by(|a, b| Arc::ptr_eq(a.flow(), b.flow())) {
            self.relay_run(run[0].flow(), run);
        }
        Ok(())
    }

    /// Relays consecutive datagrams of one flow.
    fn relay_run(&mut self, flow: &Arc<Flow>, run: &[Datagram<'_>]) {
        if !self.flows.contains_key(&flow.id()) && self.flows.len() >= FLOWS_MAX {
            self.make_room();
        }
        let relay = self.relay;
        let rules = &relay.settings.rules;
        let context = InspectionContext {
            rules,
            denial: relay.settings.denial,
            quic: relay.settings.quic,
            pending: &self.pending,
        };
        let udp_flow = self.flows.entry(flow.id());
        let udp_flow = udp_flow.or_insert_with(|| UdpFlow::new(flow, rules, self.now));
        udp_flow.last_datagram = self.now;
        let allowed = udp_flow.inspect(run, &context, &relay.listener);
        if allowed.is_empty() {
            return;
        }
        if !udp_flow.is_connected() && !udp_flow.connect(&relay.epoll) {
            self.make_room(); // does not end this flow: its last datagram came just now
            if let Some(udp_flow) = self.flows.get_mut(&flow.id()) {
                udp_flow.connect(&relay.epoll);
            }
        }
        if let Some(udp_flow) = self.flows.get_mut(&flow.id()) {
            udp_flow.forward(&allowed, relay);
        }
    }

    /// Receives answers from the flow's origin. Epoll reports the socket again if more are left.
    fn receive_from_origin(&mut self, flow: u64) {
        let reads = self.flows.get(&flow).map_or(0, UdpFlow::reads);
        let mut count = 0;
        while count < reads {
            if self.answers.is_full() {
                self.answers.send(&self.relay.listener, &mut self.flows);
            }
            let Some(udp_flow) = self.flows.get_mut(&flow) else {
                return; // the flow has ended since the event was reported
            };
            if !udp_flow.receive_answer(&mut self.answers, self.relay, self.now) {
                break;
            }
            count += 1;
        }
        if let Some(udp_flow) = self.flows.get_mut(&flow) {
            udp_flow.adapt_reads(count);
        }
    }

    /// Ends the flows that have a reason to end.
    fn sweep(&mut self) {
        let (now, idle) = (self.now, self.relay.settings.datagram_idle);
        let ended =
            |(id, udp_flow): (&u64, &UdpFlow)| Some((*id, udp_flow.close_reason(now, idle)?));
        let ended: Vec<_> = self.flows.iter().filter_map(ended).collect();
        for (id, reason) in ended {
            self.end(id, reason);
        }
    }

    /// Ends the flows that have been silent longest, see [`FLOWS_MAX`].
    fn make_room(&mut self) {
        let mut silent: Vec<_> = (self.flows.iter())
            .map(|(id, udp_flow)| (udp_flow.last_datagram, *id))
            .filter(|(last_datagram, _)| *last_datagram < self.now)
            .collect();
        let count = (self.flows.len() / ROOM_SHARE).max(1);
        if silent.len() > count {
            silent.select_nth_unstable(count);
            silent.truncate(count);
        }
        self.made_room += silent.len() as u64;
        for (_, id) in silent {
            self.end(id, CloseReason::MadeRoom);
        }
    }

    /// Removes the flow and writes its line.
    fn end(&mut self, id: u64, reason: CloseReason) {
        if let Some(udp_flow) = self.flows.remove(&id) {
            self.relay.listener.forget(&udp_flow.flow);
            self.unreported += udp_flow.unreported;
            (self.lines)(udp_flow.into_line(reason, &self.relay.names));
        }
    }

    /// Ends all flows.
    fn stop(mut self) -> Counts {
        let all: Vec<_> = self.flows.keys().copied().collect();
        for id in all {
            let reason = self.flows[&id].close_reason(self.now, Duration::ZERO);
            let reason = reason.filter(|reason| *reason != CloseReason::Idle);
            self.end(id, reason.unwrap_or(CloseReason::Stopped));
        }
        Counts {
            refused: self.relay.listener.refused(),
            overflowed: self.relay.listener.overflowed(),
            made_room: self.made_room,
            unreported: self.unreported,
        }
    }
}
