//! One UDP flow, from its first datagram to its outcome.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use sidetrack::{Error, Unreachable, send_all};

use super::answers::AnswerQueue;
use super::inspection::{Inspection, InspectionContext, Ruling};
use super::source::{ClientDatagram, DatagramSource};
use crate::close_reason::{CloseReason, RelaySide};
use crate::names::Names;
use crate::outcome::{Datagrams, Outcome, Relayed};
use crate::reactor::{NoTimer, Registry, SocketId};
use crate::rules::Rules;
use crate::upstream::DatagramUpstream;

/// The idle time-out of a flow that expects no more: all its DNS queries are answered, no process
/// listens on the origin's port, or its socket failed. A later datagram begins a new flow.
pub const FINISHED_IDLE: Duration = Duration::from_secs(1);
/// The idle time-out of a denied flow. Its client does not notice the denial and sends again for
/// some seconds.
pub const DENIED_IDLE: Duration = Duration::from_secs(5);
/// The number of datagrams that are received from one origin before other sockets are served.
pub const READS_MAX: usize = 32;

/// The state of one UDP flow.
pub(super) struct UdpFlow<F> {
    flow: Arc<F>,
    /// When its last datagram came, from the client or the origin.
    last_datagram: Instant,
    inspection: Inspection,
    /// The socket to the origin; `None` before the first allowed datagram, and after a failure.
    origin: Option<UdpSocket>,
    /// How many datagrams are received from the origin at its next event: twice as many as at the
    /// last one. So a client that waits for each answer before it asks again does not pay for a
    /// second, empty `recv`.
    reads: usize,
    /// When `origin` was connected, and whether a datagram has come from it since.
    connected: (Instant, bool),
    failure: Option<Failure>,
    /// Whether the last that came from the origin was the error that no process listens on its port.
    refused: bool,
    /// Number of errors that could not be reported to the client.
    unreported: u64,
    connect_time: Option<Duration>,
    datagrams: Datagrams,
    bytes_up: u64,
    bytes_down: u64,
}

/// Why a flow cannot reach its origin any more.
struct Failure {
    since: Instant,
    reason: CloseReason,
    /// What is reported to the client.
    unreachable: Option<Unreachable>,
}

impl<F: DatagramUpstream> UdpFlow<F> {
    pub(super) fn new(flow: &Arc<F>, rules: &Rules, now: Instant) -> Self {
        Self {
            inspection: Inspection::new(flow.destination(), rules),
            flow: Arc::clone(flow),
            last_datagram: now,
            origin: None,
            connected: (now, false),
            reads: 1,
            failure: None,
            refused: false,
            unreported: 0,
            connect_time: None,
            datagrams: Datagrams::default(),
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// Inspects datagrams that came from the client at `now`. Returns those to be sent to the
    /// origin now, in order, including those that were held back before. Denied queries are
    /// answered.
    pub(super) fn inspect<'a>(
        &mut self,
        run: &[ClientDatagram<'a, F>],
        now: Instant,
        context: &InspectionContext<'_>,
        source: &impl DatagramSource<Flow = F>,
    ) -> Vec<Cow<'a, [u8]>> {
        self.last_datagram = now;
        let mut allowed = Vec::with_capacity(run.len());
        for datagram in run {
            match self
                .inspection
                .on_client_datagram(datagram.payload, context)
            {
                Ruling::Pass => {
                    allowed.extend(self.inspection.take_held_back().into_iter().map(Cow::Owned));
                    allowed.push(Cow::Borrowed(datagram.payload));
                }
                Ruling::HoldBack => {}
                Ruling::Drop => {
                    self.datagrams.denied += 1;
                    if self.inspection.is_denied() {
                        self.datagrams.denied += self.inspection.take_held_back().len() as u64;
                    }
                }
                Ruling::Answer(answer) => {
                    self.datagrams.denied += 1;
                    if source.answer_all(&[(&self.flow, &answer)]).is_err() {
                        self.datagrams.lost += 1;
                    }
                }
            }
        }
        allowed
    }

    /// Whether the socket to the origin was made, or making it has failed.
    pub(super) fn is_connected(&self) -> bool {
        self.origin.is_some() || self.failure.is_some()
    }

    /// Connects a socket to the origin. An error becomes the flow's failure.
    ///
    /// Returns false if there was no descriptor left and the flow had not failed before: the caller
    /// then frees descriptors and calls again.
    pub(super) fn connect(&mut self, registry: &FlowRegistry) -> bool {
        let begun = Instant::now();
        self.origin = None;
        self.refused = false;
        match self.open(registry) {
            Ok(origin) => {
                self.origin = Some(origin);
                self.connected = (self.last_datagram, false);
                self.connect_time = Some(begun.elapsed());
                self.failure = None;
            }
            Err(error) => {
                let first = self.failure.is_none();
                self.failure = Some(Failure {
                    since: self.last_datagram,
                    reason: CloseReason::from_connect(&error),
                    unreachable: match &error {
                        Error::System { source, .. } => Unreachable::of(source),
                        _ => None,
                    },
                });
                return !(first && is_out_of_descriptors(&error));
            }
        }
        true
    }

    fn open(&self, registry: &FlowRegistry) -> Result<UdpSocket, Error> {
        let origin = self.flow.connect()?;
        let watched = registry.watch(&origin, FlowSocket(self.flow.id()), EventFlags::IN);
        let what = "wait for the origin's datagrams";
        watched.map_err(|source| Error::System {
            what,
            source: source.into(),
        })?;
        Ok(origin)
    }

    /// Sends datagrams to the origin, in as few system calls as possible. What cannot be sent is
    /// lost, and counted.
    pub(super) fn forward(
        &mut self,
        allowed: &[Cow<'_, [u8]>],
        registry: &FlowRegistry,
        source: &impl DatagramSource<Flow = F>,
    ) {
        let payloads: Vec<&[u8]> = allowed.iter().map(|one| &**one).collect();
        let mut rest = &payloads[..];
        while !rest.is_empty() {
            let sent = self.send(rest, registry, source);
            self.datagrams.up += sent as u64;
            self.bytes_up += rest[..sent].iter().map(|one| one.len() as u64).sum::<u64>();
            if sent == 0 {
                self.datagrams.lost += 1;
            }
            rest = &rest[sent.max(1)..];
        }
    }

    /// Sends as many of the payloads as possible, from the first one on. Returns how many; 0 if the
    /// first one cannot be sent.
    fn send(
        &mut self,
        payloads: &[&[u8]],
        registry: &FlowRegistry,
        source: &impl DatagramSource<Flow = F>,
    ) -> usize {
        self.reconnect_if_refused(registry);
        let mut sent = self.try_send(payloads);
        if let Err(Some(Unreachable::Port)) = sent
            && self.origin.is_some()
        {
            // The error answers an earlier datagram, and these have not been sent.
            self.note_refusal(source);
            self.reconnect_if_refused(registry);
            sent = self.try_send(payloads);
        }
        sent.unwrap_or_else(|unreachable| {
            self.report(unreachable, source);
            0
        })
    }

    fn try_send(&self, payloads: &[&[u8]]) -> Result<usize, Option<Unreachable>> {
        match (&self.origin, &self.failure) {
            (Some(origin), _) => {
                send_all(origin, payloads).map_err(|error| Unreachable::of(&error))
            }
            (None, Some(failure)) => Err(failure.unreachable),
            (None, None) => Err(None),
        }
    }

    /// Connects again if the origin refused. It may be the next proxy, which has died: then a new
    /// connect is classified again. To an origin that has never answered, this happens once in
    /// [`FINISHED_IDLE`] at most.
    fn reconnect_if_refused(&mut self, registry: &FlowRegistry) {
        let (since, answered) = self.connected;
        if self.refused && (answered || self.last_datagram.duration_since(since) >= FINISHED_IDLE) {
            self.connect(registry);
        }
    }

    /// Notes and reports that no process listens on the origin's port.
    fn note_refusal(&mut self, source: &impl DatagramSource<Flow = F>) {
        self.refused = true;
        self.report(Some(Unreachable::Port), source);
    }

    /// Reports an error to the client as the network would without the proxy.
    fn report(&mut self, unreachable: Option<Unreachable>, source: &impl DatagramSource<Flow = F>) {
        if let Some(unreachable) = unreachable {
            self.unreported += u64::from(source.report(&self.flow, unreachable).is_err());
        }
    }

    /// How many datagrams to receive from the origin at this event.
    pub(super) fn reads(&self) -> usize {
        self.reads
    }

    /// Sets [`reads`](Self::reads) for the next event, after `count` datagrams came at this one.
    pub(super) fn adapt_reads(&mut self, count: usize) {
        self.reads = (2 * count).clamp(1, READS_MAX);
    }

    /// Receives a datagram from the origin into the queue. Returns false if there was none, or an
    /// error.
    pub(super) fn receive_answer(
        &mut self,
        answers: &mut AnswerQueue<F>,
        now: Instant,
        source: &impl DatagramSource<Flow = F>,
        names: &Mutex<Names>,
    ) -> bool {
        let Some(origin) = &self.origin else {
            return false;
        };
        match origin.recv(answers.free_space()) {
            Ok(length) => {
                self.last_datagram = now;
                self.refused = false;
                self.connected.1 = true;
                let bytes = answers.add(&self.flow, length);
                self.inspection.on_origin_datagram(bytes, names);
                return true;
            }
            Err(error) if is_permanent(error.kind()) => self.fail(&error, now, source),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.note_refusal(source);
            }
            Err(error) => self.report(Unreachable::of(&error), source),
        }
        false
    }

    fn fail(&mut self, error: &io::Error, now: Instant, source: &impl DatagramSource<Flow = F>) {
        let unreachable = Unreachable::of(error);
        self.failure = Some(Failure {
            since: now,
            reason: CloseReason::from_io(RelaySide::Origin, error),
            unreachable,
        });
        self.origin = None; // otherwise epoll would report the error again and again
        self.report(unreachable, source);
    }

    /// Counts a datagram from the origin, which was sent to the client or lost.
    pub(super) fn count_answer(&mut self, length: usize, sent: bool) {
        if sent {
            self.datagrams.down += 1;
            self.bytes_down += length as u64;
        } else {
            self.datagrams.lost += 1;
        }
    }

    /// Why the flow has ended; `None` if it has not.
    pub(super) fn close_reason(&self, now: Instant, idle: Duration) -> Option<CloseReason> {
        let (since, wait, reason) = match &self.failure {
            Some(Failure { since, reason, .. }) => (*since, FINISHED_IDLE, reason.clone()),
            None if self.refused => (self.last_datagram, FINISHED_IDLE, CloseReason::Refused),
            None if self.inspection.is_denied() => {
                (self.last_datagram, DENIED_IDLE, CloseReason::Denied)
            }
            None if self.inspection.is_answered() => {
                (self.last_datagram, FINISHED_IDLE, CloseReason::Answered)
            }
            None => (self.last_datagram, idle, CloseReason::Idle),
        };
        (now.duration_since(since) >= wait.min(idle)).then_some(reason)
    }

    pub(super) fn flow(&self) -> &F {
        &self.flow
    }

    /// When its last datagram came, from the client or the origin.
    pub(super) fn last_datagram(&self) -> Instant {
        self.last_datagram
    }

    /// Number of errors that could not be reported to the client.
    pub(super) fn unreported(&self) -> u64 {
        self.unreported
    }

    /// Closes the socket to the origin and returns the outcome.
    pub(super) fn close(mut self, reason: CloseReason) -> (Arc<F>, Outcome, Datagrams) {
        self.datagrams.lost += self.inspection.take_held_back().len() as u64; // no verdict was reached
        let (seen, verdict) = self.inspection.into_seen();
        let outcome = Outcome {
            seen,
            verdict,
            connect: None,
            connect_time: self.connect_time,
            relayed: Relayed {
                bytes_up: self.bytes_up,
                bytes_down: self.bytes_down,
                reason,
            },
        };
        (self.flow, outcome, self.datagrams)
    }
}

/// The sockets to the origins of all flows.
pub(super) type FlowRegistry = Registry<FlowSocket, NoTimer>;

/// Identifies the socket to the origin of a flow: the flow's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowSocket(pub(super) u64);

impl SocketId for FlowSocket {
    fn number(self) -> u64 {
        self.0
    }

    fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Whether an error of a socket lasts. ICMP errors concern earlier datagrams, and an unreachable
/// host may become reachable again.
fn is_permanent(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

fn is_out_of_descriptors(error: &Error) -> bool {
    let numbers = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    matches!(error, Error::System { source, .. }
        if source.raw_os_error().is_some_and(|number| numbers.contains(&number)))
}
