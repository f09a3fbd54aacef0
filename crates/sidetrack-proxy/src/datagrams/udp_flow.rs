//! One flow, from its first datagram to its line.

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
use crate::connection::{Outcome, Relayed};
use crate::line::{Datagrams, FlowLine};
use crate::names::Names;
use crate::rules::Rules;
use crate::sniff::Seen;

pub(super) struct UdpFlow {
    pub(super) flow: Arc<Flow>,
    /// When its last datagram came, from either side.
    pub(super) last_datagram: Instant,
    inspection: Inspection,
    origin: Option<UdpSocket>,
    /// Datagrams to be looked for at the next event: twice what the last one brought, so that who
    /// waits for one answer after another does not also pay for a look that finds nothing.
    reads: usize,
    /// When that was connected, and whether it has been answered since.
    connected: (Instant, bool),
    failure: Option<Failure>,
    /// Nobody was there, when it was last heard of.
    refused: bool,
    /// Errors that the client could not be told of.
    pub(super) unreported: u64,
    connect_time: Option<Duration>,
    datagrams: Datagrams,
    bytes_up: u64,
    bytes_down: u64,
}

/// It cannot go on.
struct Failure {
    since: Instant,
    reason: CloseReason,
    /// What its client is told of it.
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

    /// Which datagrams go on now, in their order; those that were held before among them.
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

    /// Or has failed to be.
    pub(super) fn is_connected(&self) -> bool {
        self.origin.is_some() || self.failure.is_some()
    }

    /// Returns false if there is no descriptor left, once: then another call is the last one.
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

    /// Sends them on, in as few calls as can be; what cannot be sent is lost.
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

    /// Returns how many were taken, from the first on.
    fn send(&mut self, payloads: &[&[u8]], relay: &DatagramRelay) -> usize {
        self.reconnect_if_refused(&relay.epoll);
        let mut sent = self.try_send(payloads);
        if let Err(Some(Unreachable::Port)) = sent
            && self.origin.is_some()
        {
            self.note_refusal(&relay.listener); // of an earlier one; these have not been sent
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

    /// If nobody is there any more, it may have been a proxy that has died: then another connect is
    /// judged anew. Not for each datagram to where nobody ever was.
    fn reconnect_if_refused(&mut self, epoll: &OwnedFd) {
        let (since, answered) = self.connected;
        if self.refused && (answered || self.last_datagram.duration_since(since) >= FINISHED_IDLE) {
            self.connect(epoll);
        }
    }

    fn note_refusal(&mut self, listener: &DatagramListener) {
        self.refused = true;
        self.report(Some(Unreachable::Port), listener);
    }

    /// The client is told as it would be without us.
    fn report(&mut self, unreachable: Option<Unreachable>, listener: &DatagramListener) {
        if let Some(unreachable) = unreachable {
            self.unreported += u64::from(listener.report(&self.flow, unreachable).is_err());
        }
    }

    /// How many datagrams to look for now.
    pub(super) fn reads(&self) -> usize {
        self.reads
    }

    /// So many came.
    pub(super) fn adapt_reads(&mut self, count: usize) {
        self.reads = (2 * count).clamp(1, READS_MAX);
    }

    /// Takes a datagram from the origin. Returns false if there was none.
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
        self.origin = None; // or it would be told again and again
        self.report(unreachable, listener);
    }

    /// What became of a datagram that was taken.
    pub(super) fn count_answer(&mut self, length: usize, sent: bool) {
        if sent {
            self.datagrams.down += 1;
            self.bytes_down += length as u64;
        } else {
            self.datagrams.lost += 1;
        }
    }

    /// How it has ended, if it has.
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

    pub(super) fn into_line(mut self, reason: CloseReason, names: &Mutex<Names>) -> FlowLine {
        self.datagrams.lost += self.inspection.take_held_back().len() as u64; // nobody has decided
        let (seen, verdict) = self.inspection.into_seen();
        let label = match seen {
            Seen::Dns { .. } => None, // the name of a name server is of no interest
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

/// The name that an address was last asked for by.
pub(crate) fn label(address: IpAddr, names: &Mutex<Names>) -> Option<String> {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.label(address, Instant::now()).map(str::to_owned)
}

/// Not one datagram's own: ICMP tells of hosts that cannot be reached, and they may come back.
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
