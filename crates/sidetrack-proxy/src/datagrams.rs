//! Datagrams: all flows of a service in one loop, which waits for the listener and for every origin.
//!
//! ```text
//!            ┌─ listener ─ batch ─ Inspection::up ── send ──▶ one connected socket
//!   clients ─┤                                                  for each flow, with
//!            └◀──── batch ──────── Inspection::down ◀─ recv ──  its records
//! ```
//!
//! Nothing waits for room: where a socket's buffer is full, datagrams are lost, as on any network,
//! and counted. What a client sends is held back only while a QUIC ClientHello that a rule may deny
//! is not whole yet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use sidetrack::{Batch, Datagram, DatagramListener, Error, Flow, Service};

use crate::busy_poll::Poller;
use crate::close_reason::CloseReason;
use crate::line::FlowLine;
use crate::names::Names;
use crate::settings::Settings;

mod answers;
mod inspection;
mod queries;
mod udp_flow;

use answers::AnswerQueue;
use inspection::InspectionContext;
use udp_flow::UdpFlow;

pub use inspection::{DNS_PORT, HELD_BACK_SIZE_MAX, INSPECTED_MAX, PENDING_MAX, Quic};
pub use queries::{ADDRESSES_MAX, QUERIES_MAX, QueryLine};
pub(crate) use udp_flow::label;

/// Flows at a time; each takes a descriptor. For another one, those end that have been silent
/// longest: one in [`ROOM_SHARE`] of all, so that not every new flow searches them. So too without
/// descriptors.
pub const FLOWS_MAX: usize = 16_384;
/// See [`FLOWS_MAX`].
pub const ROOM_SHARE: usize = 64;
/// When a silent flow ends, unless told otherwise (WFP specification, 2.4).
pub const DATAGRAM_IDLE: Duration = Duration::from_secs(60);
/// When a flow ends that expects no more: its DNS queries are answered, nobody is there, or it could
/// not go on. A datagram after that begins another one.
pub const FINISHED_IDLE: Duration = Duration::from_secs(1);
/// When a denied flow ends. Clients that are not told try again for some seconds.
pub const DENIED_IDLE: Duration = Duration::from_secs(5);
/// How often it is looked for flows that are over.
pub const SWEEP: Duration = Duration::from_millis(250);
/// Datagrams that are taken from the clients at once.
pub const BATCH: usize = 64;
/// Datagrams that are taken from one origin before it is another's turn.
pub const READS_MAX: usize = 32;
/// Longer than any datagram.
pub const DATAGRAM_SIZE_MAX: usize = 65_536;

/// The pause after a failure of the listener that may pass.
const PAUSE: Duration = Duration::from_millis(50);
const STOP: u64 = u64::MAX;
/// The listener's sockets, downwards from here; flows' ids never come so far.
const LISTENER: u64 = u64::MAX - 1;

/// What no flow line tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Datagrams that were not redirected to this service.
    pub refused: u64,
    /// Datagrams that the kernel dropped, as they came faster than they were taken.
    pub overflowed: u64,
    /// Flows that ended because others needed their place.
    pub made_room: u64,
    /// Errors of origins, and of the way there, that clients could not be told of.
    pub unreported: u64,
}

/// A service's datagrams, ready to be relayed.
#[derive(Debug)]
pub(crate) struct DatagramRelay {
    listener: DatagramListener,
    epoll: OwnedFd,
    stop: Arc<OwnedFd>,
    settings: Settings,
    names: Arc<Mutex<Names>>,
}

/// Stops a [`Relay`] when it is dropped.
pub(crate) struct Stopper(Arc<OwnedFd>);

impl Drop for Stopper {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes()); // cannot fail: it is the first
    }
}

impl DatagramRelay {
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

    /// Relays until it is stopped, or can never work again.
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
    flows: HashMap<u64, UdpFlow>,
    answers: AnswerQueue,
    pending: Arc<()>,
    now: Instant,
    made_room: u64,
    unreported: u64,
}

impl DatagramLoop<'_> {
    fn run(mut self) -> Result<Counts, Error> {
        let mut batch = Batch::new(BATCH, DATAGRAM_SIZE_MAX);
        let mut poller = Poller::new();
        let mut last_sweep = self.now;
        loop {
            let timeout = (!self.flows.is_empty()).then_some(SWEEP);
            let events = poller.wait(&self.relay.epoll, timeout);
            let events = events.map_err(wait_error)?;
            self.now = Instant::now();
            for event in events {
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
            if self.now.duration_since(last_sweep) >= SWEEP {
                last_sweep = self.now;
                self.sweep();
            }
        }
    }

    /// From the clients.
    fn receive_from_clients(&mut self, socket: usize, batch: &mut Batch) -> Result<(), Error> {
        match self.relay.listener.try_receive(socket, batch) {
            Ok(()) => {}
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                return Err(Error::NoEngine);
            }
            Err(Error::System { .. } | Error::NoContext) => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
        let datagrams: Vec<Datagram<'_>> = batch.iter().collect();
        for run in datagrams.chunk_by(|a, b| Arc::ptr_eq(a.flow(), b.flow())) {
            self.relay_run(run[0].flow(), run);
        }
        Ok(())
    }

    /// Datagrams of one flow, one after another.
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
            self.make_room(); // this one is not silent
            if let Some(udp_flow) = self.flows.get_mut(&flow.id()) {
                udp_flow.connect(&relay.epoll);
            }
        }
        if let Some(udp_flow) = self.flows.get_mut(&flow.id()) {
            udp_flow.forward(&allowed, relay);
        }
    }

    /// From an origin. What is left there is told of again.
    fn receive_from_origin(&mut self, flow: u64) {
        let reads = self.flows.get(&flow).map_or(0, UdpFlow::reads);
        let mut count = 0;
        while count < reads {
            if self.answers.is_full() {
                self.answers.send(&self.relay.listener, &mut self.flows);
            }
            let Some(udp_flow) = self.flows.get_mut(&flow) else {
                return; // it has just ended
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

    fn sweep(&mut self) {
        let (now, idle) = (self.now, self.relay.settings.datagram_idle);
        let ended =
            |(id, udp_flow): (&u64, &UdpFlow)| Some((*id, udp_flow.close_reason(now, idle)?));
        let ended: Vec<_> = self.flows.iter().filter_map(ended).collect();
        for (id, reason) in ended {
            self.end(id, reason);
        }
    }

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

    fn end(&mut self, id: u64, reason: CloseReason) {
        if let Some(udp_flow) = self.flows.remove(&id) {
            self.relay.listener.forget(&udp_flow.flow);
            self.unreported += udp_flow.unreported;
            (self.lines)(udp_flow.into_line(reason, &self.relay.names));
        }
    }

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
