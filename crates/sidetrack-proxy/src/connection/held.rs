//! One held client: its connect has begun, and waits for the proxy's own.
//!
//! ```text
//!   Waiting ─ a rule denies its address ───────────▶ Refusing ──▶ end
//!      │  │                                             ▲
//!      │  └── allowed ──▶ Connecting ── failed ─────────┘
//!      │                      │ connected
//!      └─ a rule needs        ▼
//!         its bytes ────▶ Completed ── accepted ──▶ Connection
//! ```
//!
//! In each phase the client may give up. `Waiting` waits for room only.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use sidetrack::Error;

use super::loop_context::LoopContext;
use super::{Connection, connect_error, reset_on_close};
use crate::close_reason::{CloseReason, RelaySide};
use crate::outcome::{ConnectMode, Outcome, Relayed};
use crate::relay::Peer;
use crate::rules::{Rules, Verdict};
use crate::seen::Seen;
use crate::upstream::{PendingConnect, Upstream};

/// A client whose connect is held, and once it is made, the connection to its origin. When it is
/// dropped before it is completed, the client's connect is refused.
pub(crate) struct HeldClient<P: PendingConnect> {
    flow_id: u64,
    phase: Phase<P>,
    /// `None` in the phase `Waiting`, and if the client had gone before.
    upstream: Option<P::Upstream>,
    /// `None` if a rule needs what the client will send.
    verdict: Option<Verdict>,
    connect_time: Option<Duration>,
}

enum Phase<P> {
    /// Nothing was done, for lack of room.
    Waiting(P),
    /// The connect to the origin began at this time.
    Connecting(P, Peer, Instant),
    /// The client's SYN was let through, and its connection will be accepted. With the connection to
    /// the origin, unless the client is accepted first.
    Completed(Option<Peer>),
    /// The client's connect is to be refused with this error.
    Refusing(P, io::Error),
    /// The client is gone.
    Gone,
}

/// What became of a held client after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldProgress {
    /// Nothing more can be done before the next event.
    Waiting,
    /// The client can be accepted from the listening socket with this index.
    Completed(usize),
}

/// A held client that was not accepted. Its client still waits, and the socket to the origin is
/// open, until this is refused or dropped.
pub(crate) struct EndedClient<P: PendingConnect> {
    /// What the flow line needs; `None` if the client has left nothing of its flow.
    pub(crate) line: Option<(P::Upstream, Outcome)>,
    phase: Phase<P>,
}

impl<P: PendingConnect> HeldClient<P> {
    pub(crate) fn new(pending: P, rules: &Rules) -> Self {
        Self {
            flow_id: pending.flow_id(),
            verdict: rules.decide_by_address(pending.destination()),
            phase: Phase::Waiting(pending),
            upstream: None,
            connect_time: None,
        }
    }

    /// Takes the first step: refuses the client, connects to its origin, or lets it through. An error
    /// is the reason to [end](Self::end) it.
    pub(crate) fn begin(
        &mut self,
        context: &mut LoopContext<'_>,
    ) -> Result<HeldProgress, CloseReason> {
        let Phase::Waiting(pending) = self.take_phase() else {
            return Ok(HeldProgress::Waiting);
        };
        match pending.upstream() {
            Ok(upstream) => self.upstream = Some(upstream),
            Err(error) => return Err(self.refuse(pending, error)),
        }
        match &self.verdict {
            None => self.accept_first(pending),
            Some(verdict) if verdict.is_deny() => {
                self.phase = Phase::Refusing(pending, Errno::ACCESS.into());
                Err(CloseReason::Denied)
            }
            Some(_) => self.connect(pending, context),
        }
    }

    /// Notes an event of the socket to the origin; [`advance`](Self::advance) acts on it.
    pub(crate) fn note(&mut self, events: EventFlags) {
        match &mut self.phase {
            Phase::Connecting(_, origin, _) | Phase::Completed(Some(origin)) => origin.note(events),
            _ => {} // closed since the event was reported
        }
    }

    /// Lets the client through if the connect to the origin has finished. An error is the reason to
    /// [end](Self::end) it.
    pub(crate) fn advance(&mut self) -> Result<HeldProgress, CloseReason> {
        let Phase::Connecting(_, origin, _) = &self.phase else {
            return Ok(HeldProgress::Waiting);
        };
        let connected = origin.is_connected();
        if matches!(connected, Ok(false)) {
            return Ok(HeldProgress::Waiting);
        }
        let Phase::Connecting(pending, origin, since) = self.take_phase() else {
            unreachable!("it was just matched");
        };
        match connected {
            Ok(_) => {
                self.connect_time = Some(since.elapsed());
                self.complete(pending, Some(origin))
            }
            Err(error) => {
                drop(origin);
                Err(self.refuse(pending, connect_error(error)))
            }
        }
    }

    /// Whether its SYN was let through, so that it may be accepted.
    pub(crate) fn is_completed(&self) -> bool {
        matches!(self.phase, Phase::Completed(_))
    }

    /// Whether it needs neither room nor sockets, as nothing was done for it.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    pub(crate) fn flow_id(&self) -> u64 {
        self.flow_id
    }

    /// Makes a connection of it, as its client was accepted with the socket `client`.
    pub(crate) fn accepted(
        &mut self,
        client: TcpStream,
        upstream: P::Upstream,
    ) -> Connection<P::Upstream> {
        let connection = Connection::with_verdict(client, upstream, self.verdict.take());
        match (self.take_phase(), self.connect_time) {
            (Phase::Completed(Some(origin)), Some(connect_time)) => {
                connection.connected_before(origin, connect_time)
            }
            _ => connection,
        }
    }

    /// Ends it. Its client is refused, and the connection to the origin is closed, when the returned
    /// value is [closed](EndedClient::close).
    pub(crate) fn end(mut self, reason: CloseReason, rules: &Rules) -> EndedClient<P> {
        if let (Phase::Waiting(pending), None) = (&self.phase, &self.upstream) {
            self.upstream = pending.upstream().ok();
        }
        let (verdict, connect_time) = (self.verdict, self.connect_time);
        let line = self.upstream.map(|upstream| {
            let outcome = Outcome {
                seen: Seen::None,
                verdict: verdict.unwrap_or_else(|| rules.decide(upstream.destination(), None)),
                connect: Some(ConnectMode::Pended),
                connect_time,
                relayed: Relayed {
                    bytes_up: 0,
                    bytes_down: 0,
                    reason,
                },
            };
            (upstream, outcome)
        });
        EndedClient {
            line,
            phase: self.phase,
        }
    }

    /// Lets the client through before the connect to its origin, unless it is already clear that this
    /// connect fails: then the client can go on to another address of the host.
    fn accept_first(&mut self, pending: P) -> Result<HeldProgress, CloseReason> {
        match pending.check_route() {
            Ok(()) => self.complete(pending, None),
            Err(error) => Err(self.refuse(pending, error)),
        }
    }

    fn connect(
        &mut self,
        pending: P,
        context: &mut LoopContext<'_>,
    ) -> Result<HeldProgress, CloseReason> {
        let begun = Instant::now();
        let origin = match pending.connect() {
            Ok(stream) => Peer::origin(stream),
            Err(error) => return Err(self.refuse(pending, error)),
        };
        reset_on_close(origin.as_fd());
        let watched = context.watch(&origin, RelaySide::Origin);
        self.phase = Phase::Connecting(pending, origin, begun);
        watched.map(|()| HeldProgress::Waiting)
    }

    /// Lets the client through, so that it can be accepted.
    fn complete(&mut self, pending: P, origin: Option<Peer>) -> Result<HeldProgress, CloseReason> {
        let socket = pending.listening_socket();
        self.phase = Phase::Gone;
        pending.complete().map_err(|error| reason_of(&error))?;
        self.phase = Phase::Completed(origin);
        Ok(HeldProgress::Completed(socket))
    }

    /// Returns the reason for an error of the onward connect, which the client will be refused with.
    fn refuse(&mut self, pending: P, error: Error) -> CloseReason {
        let reason = reason_of(&error);
        self.phase = match error {
            Error::ClientGone => Phase::Gone,
            Error::System { source, .. } => Phase::Refusing(pending, source),
            _ => Phase::Refusing(pending, Errno::CONNREFUSED.into()),
        };
        reason
    }

    fn take_phase(&mut self) -> Phase<P> {
        std::mem::replace(&mut self.phase, Phase::Gone)
    }
}

impl<P: PendingConnect> EndedClient<P> {
    /// Closes the connection to the origin and refuses the client, if it still waits.
    pub(crate) fn close(self) {
        match self.phase {
            Phase::Refusing(pending, error) => pending.refuse(&error),
            Phase::Connecting(pending, origin, _) => {
                drop(origin);
                pending.refuse(&Errno::CONNREFUSED.into());
            }
            Phase::Waiting(pending) => pending.refuse(&Errno::CONNREFUSED.into()),
            Phase::Completed(_) | Phase::Gone => {}
        }
    }
}

fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::ClientGone => CloseReason::ClientGaveUp,
        error => CloseReason::from_connect(error),
    }
}
