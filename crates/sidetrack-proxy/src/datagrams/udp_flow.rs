//! One UDP flow, from its first datagram to its line.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use sidetrack::{Datagram, DatagramListener, Error, Flow, Unreachable, send_all};

use super::answers::AnswerQueue;
use super::inspection::{Inspection, InspectionContext, Ruling};
use super::{DENIED_IDLE, DatagramRelay, FINISHED_IDLE, READS_MAX};
use crate::close_reason::{CloseReason, RelaySide};
use crate::line::FlowLine;
use crate::names::Names;
use crate::outcome::{Datagrams, Outcome, Relayed};
use crate::rules::Rules;
use crate::seen::Seen;

/// The state of one UDP flow.
pub(super) struct UdpFlow {
    pub(super) flow: Arc<Flow>,
    /// When its last datagram came, from the client or the origin.
    pub(super) last_datagram: Instant,
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
    pub(super) unreported: u64,
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

impl UdpFlow {
    pub(super) fn new(flow: &Arc<Flow>, rules: &Rules, now: Instant) -> Self {
        Self {
            inspection: Inspection::new(flow.original_destination(), rules),
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

    /// Inspects datagrams from the client. Returns those to be sent to the origin now, in order,
    /// including those that were held back before. Denied queries are answered.
    pub(super) fn inspect<'a>(
        &mut self,
        run: &[Datagram<'a>],
        context: &InspectionContext<'_>,
        listener: &DatagramListener,
    ) -> Vec<Cow<'a, [u8]>> {
        let mut allowed = Vec::with_capacity(run.len());
        for datagram in run {
            match self
                .inspection
                .on_client_datagram(datagram.payload(), context)
            {
                Ruling::Pass => {
                    allowed.extend(self.inspection.take_held_back().into_iter().map(Cow::Owned));
                    allowed.push(Cow::Borrowed(datagram.payload()));
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
                    if listener.answer(&self.flow, &answer).is_err() {
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
    pub(super) fn connect(&mut self, epoll: &OwnedFd) -> bool {
        let begun = Instant::now();
        self.origin = None;
        self.refused = false;
        match self.open(epoll) {
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

    fn open(&self, epoll: &OwnedFd) -> Result<UdpSocket, Error> {
        let origin = self.flow.connect_datagrams_nonblocking()?;
        let id = EventData::new_u64(self.flow.id());
        let watched = epoll::add(epoll, &origin, id, EventFlags::IN);
        let what = "wait for the origin's datagrams";
        watched.map_err(|source| Error::System {
            what,
            source: source.into(),
        })?;
        Ok(origin)
    }

    /// Sends datagrams to the origin, in as few system calls as possible. What cannot be sent is
    /// lost, and counted.
    pub(super) fn forward(&mut self, allowed: &[Cow<'_, [u8]>], relay: &DatagramRelay) {
        let payloads: Vec<&[u8]> = allowed.iter().map(|one| &**one).collect();
        let mut rest = &payloads[..];
        while !rest.is_empty() {
            let sent = self.send(rest, relay);
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
    fn send(&mut self, payloads: &[&[u8]], relay: &DatagramRelay) -> usize {
        self.reconnect_if_refused(&relay.epoll);
        let mut sent = self.try_send(payloads);
        if let Err(Some(Unreachable::Port)) = sent
            && self.origin.is_some()
        {
            // The error answers an earlier datagram, and these have not been sent.
            self.note_refusal(&relay.listener);
            self.reconnect_if_refused(&relay.epoll);
            sent = self.try_send(payloads);
        }
        sent.unwrap_or_else(|unreachable| {
            self.report(unreachable, &relay.listener);
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
    fn reconnect_if_refused(&mut self, epoll: &OwnedFd) {
        let (since, answered) = self.connected;
        if self.refused && (answered || self.last_datagram.duration_since(since) >= FINISHED_IDLE) {
            self.connect(epoll);
        }
    }

    /// Notes and reports that no process listens on the origin's port.
    fn note_refusal(&mut self, listener: &DatagramListener) {
        self.refused = true;
        self.report(Some(Unreachable::Port), listener);
    }

    /// Reports an error to the client as the network would without the proxy.
    fn report(&mut self, unreachable: Option<Unreachable>, listener: &DatagramListener) {
        if let Some(unreachable) = unreachable {
            self.unreported += u64::from(listener.report(&self.flow, unreachable).is_err());
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
        answers: &mut AnswerQueue,
        relay: &DatagramRelay,
        now: Instant,
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
                self.inspection.on_origin_datagram(bytes, &relay.names);
                return true;
            }
            Err(error) if is_permanent(error.kind()) => self.fail(&error, now, &relay.listener),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.note_refusal(&relay.listener);
            }
            Err(error) => self.report(Unreachable::of(&error), &relay.listener),
        }
        false
    }

    fn fail(&mut self, error: &io::Error, now: Instant, listener: &DatagramListener) {
        let unreachable = Unreachable::of(error);
        self.failure = Some(Failure {
            since: now,
            reason: CloseReason::from_io(RelaySide::Origin, error),
            unreachable,
        });
        self.origin = None; // otherwise epoll would report the error again and again
        self.report(unreachable, listener);
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

    /// The flow line of an ended flow.
    pub(super) fn into_line(mut self, reason: CloseReason, names: &Mutex<Names>) -> FlowLine {
        self.datagrams.lost += self.inspection.take_held_back().len() as u64; // no verdict was reached
        let (seen, verdict) = self.inspection.into_seen();
        let label = match seen {
            Seen::Dns { .. } => None, // the name of the name server is of no interest
            _ => label(self.flow.original_destination().ip(), names),
        };
        let outcome = Outcome {
            seen,
            verdict,
            connect_time: self.connect_time,
            relayed: Relayed {
                bytes_up: self.bytes_up,
                bytes_down: self.bytes_down,
                reason,
            },
        };
        FlowLine {
            name: label,
            datagrams: Some(self.datagrams),
            ..FlowLine::new(&self.flow, outcome)
        }
    }
}

/// The name for which DNS last returned this address.
pub(crate) fn label(address: IpAddr, names: &Mutex<Names>) -> Option<String> {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.label(address, Instant::now()).map(str::to_owned)
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
    let numbers =
        [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|one| one.raw_os_error());
    matches!(error, Error::System { source, .. }
        if source.raw_os_error().is_some_and(|number| numbers.contains(&number)))
}
