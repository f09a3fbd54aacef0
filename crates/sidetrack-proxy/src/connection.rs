//! One redirected connection, from accept to its end. If the client's connect was held (`held.rs`), it begins
//! in the phase `Relaying`, or, if a rule needs the host, in `Sniffing`.
//!
//! ```text
//!   decide_by_address ─ denied ───────────▶ SniffingToRefuse ─────▶ Refusing ──▶ end
//!      │      └──────── needs the host ───▶ Sniffing ── denied ──────▶ ▲
//!      └─ allowed ──▶ Connecting ◀─────────────┘ allowed, or           │
//!                         │                      silent for SNIFF_WAIT │
//!                         ▼                                            │
//!                     Relaying                                         │
//!                       client to origin: the opening; decided now ─── denied
//!                                         if it was not; then all else
//!                       origin to client: everything
//! ```
//!
//! Bytes from the client are held back until no rule can deny the connection any more. Bytes from the
//! origin are not. So protocols in which the server speaks first work, and a client cannot evade a
//! rule by waiting.
//!
//! A connection never blocks: `advance` does what can be done at once, and the event loop calls it
//! again at the next event of its sockets.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use sidetrack::Error;
use socket2::SockRef;

use crate::close_reason::{CloseReason, RelaySide};
use crate::outcome::{ConnectMode, Outcome, Relayed};
use crate::relay::{Direction, Peer, Progress};
use crate::rules::{Rules, Verdict};
use crate::settings::Settings;
use crate::upstream::Upstream;

mod held;
mod id;
mod loop_context;
mod opening;
mod refusal;
mod timer;

use opening::Opening;
use refusal::Refusal;

pub use refusal::REFUSAL_SIZE_MAX;
pub use timer::{ACCEPT_WAIT, REFUSAL_WAIT, SNIFF_WAIT};

pub(crate) use held::{HeldClient, HeldProgress};
pub(crate) use id::{ConnectionId, LoopSocket};
pub(crate) use loop_context::{ConnectionRegistry, LoopContext};
pub(crate) use timer::{ConnectionTimer, TimerKind};

/// How many times within a time-out the connections are checked. So no timer has to be started for
/// each connect, or reset for each chunk, and a connection ends at most a quarter of its time-out
/// late.
pub const TIMEOUT_CHECKS: u32 = 4;

/// A connection of a client and, once it is made, the one to its origin. When it is dropped, both
/// are reset, unless it was [ended](Self::end) with [`CloseReason::Closed`].
pub(crate) struct Connection<U> {
    upstream: U,
    client: Peer,
    /// `None` before the proxy connects, and after a denial.
    origin: Option<Peer>,
    phase: Phase,
    opening: Opening,
    /// `None` while it depends on what the client will send.
    verdict: Option<Verdict>,
    connect: ConnectMode,
    connect_time: Option<Duration>,
    up: Direction,
    down: Direction,
    idleness: Option<Idleness>,
}

/// A connection that has ended. Its sockets are open until this is dropped.
pub(crate) struct EndedConnection<U> {
    pub(crate) upstream: U,
    pub(crate) outcome: Outcome,
    /// The client's socket, and the one to the origin.
    pub(crate) sockets: (Peer, Option<Peer>),
}

enum Phase {
    /// A rule denied it by its address. The opening is read only to learn the protocol in which to
    /// refuse.
    SniffingToRefuse,
    /// The verdict depends on the opening.
    Sniffing,
    /// The connect to the origin began at this time.
    Connecting(Instant),
    Relaying,
    /// A rule denied it, and the client receives the refusal.
    Refusing(Refusal),
}

/// What the check of the time-outs remembers.
#[derive(Clone, Copy)]
struct Idleness {
    /// Number of bytes read and relayed, as of the last check.
    sum: u64,
    /// When a check first found this number.
    since: Instant,
}

impl<U: Upstream> Connection<U> {
    /// Takes the accepted socket `client`, which must be non-blocking and [prepared](prepare).
    pub(crate) fn new(client: TcpStream, upstream: U, rules: &Rules) -> Self {
        let verdict = rules.decide_by_address(upstream.destination());
        Self::with_verdict(client, upstream, verdict)
    }

    /// The same, with the verdict by the address.
    fn with_verdict(client: TcpStream, upstream: U, verdict: Option<Verdict>) -> Self {
        let phase = match &verdict {
            Some(verdict) if verdict.is_deny() => Phase::SniffingToRefuse,
            _ => Phase::Sniffing,
        };
        Self {
            upstream,
            client: Peer::client(client),
            origin: None,
            phase,
            opening: Opening::default(),
            verdict,
            connect: ConnectMode::Accepted,
            connect_time: None,
            up: Direction::default(),
            down: Direction::default(),
            idleness: None,
        }
    }

    /// Gives it the connection to its origin, which was made while the client's connect was held.
    fn connected_before(self, origin: Peer, connect_time: Duration) -> Self {
        Self {
            origin: Some(origin),
            phase: Phase::Relaying,
            connect: ConnectMode::Pended,
            connect_time: Some(connect_time),
            ..self
        }
    }

    /// Adds the client's socket to epoll and takes the first step: connects, waits for the opening,
    /// or relays.
    pub(crate) fn begin(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        context.watch(&self.client, RelaySide::Client)?;
        match self.phase {
            Phase::Sniffing if self.verdict.is_some() => self.connect(context)?,
            Phase::Relaying => return self.relay(context),
            _ => context.start_timer(TimerKind::Sniff),
        }
        Ok(Progress::Waiting)
    }

    /// Notes an event of one of its sockets; [`advance`](Self::advance) acts on it.
    pub(crate) fn note(&mut self, side: RelaySide, events: EventFlags) {
        match (side, &mut self.origin) {
            (RelaySide::Client, _) => self.client.note(events),
            (RelaySide::Origin, Some(origin)) => origin.note(events),
            (RelaySide::Origin, None) => {} // closed since the event was reported
        }
    }

    /// Does everything that can be done without waiting. An error is the reason to close the
    /// connection.
    pub(crate) fn advance(
        &mut self,
        context: &mut LoopContext<'_>,
    ) -> Result<Progress, CloseReason> {
        let progress = match self.phase {
            Phase::SniffingToRefuse => self.sniff_to_refuse(context),
            Phase::Sniffing => self.sniff(context),
            Phase::Connecting(since) => self.check_connect(since, context),
            Phase::Relaying => self.relay(context),
            Phase::Refusing(ref mut refusal) => {
                refusal.advance(&mut self.client, context.copy_buffer)
            }
        };
        match progress {
            Err(CloseReason::Denied) if !matches!(self.phase, Phase::Refusing(_)) => {
                self.refuse(context)
            }
            progress => progress,
        }
    }

    /// Continues after `timer`, which the connection had started, has expired.
    pub(crate) fn timer_expired(
        &mut self,
        timer: TimerKind,
        context: &mut LoopContext<'_>,
    ) -> Result<Progress, CloseReason> {
        match (&self.phase, timer) {
            (Phase::SniffingToRefuse, TimerKind::Sniff) => self.refuse(context),
            (Phase::Sniffing, TimerKind::Sniff) if self.opening.is_silent() => {
                self.connect(context)?;
                self.advance(context)
            }
            (Phase::Refusing(_), TimerKind::Refusal) => Err(CloseReason::Denied),
            _ => Ok(Progress::Waiting), // the timer is of an earlier phase
        }
    }

    /// Returns why the connection ends if one of its time-outs is over at `now`. The loop calls this
    /// [`TIMEOUT_CHECKS`] times within the shorter one.
    pub(crate) fn check_timeouts(
        &mut self,
        now: Instant,
        settings: &Settings,
    ) -> Option<CloseReason> {
        if let Phase::Connecting(since) = self.phase
            && now.duration_since(since) >= settings.connect_timeout
        {
            return Some(connect_failed(io::ErrorKind::TimedOut.into()));
        }
        let sum = self.up.count() + self.down.count() + self.opening.count();
        let unchanged = self.idleness.filter(|idleness| idleness.sum == sum);
        let Idleness { since, .. } = *self
            .idleness
            .insert(unchanged.unwrap_or(Idleness { sum, since: now }));
        (now.duration_since(since) >= settings.idle_timeout).then_some(CloseReason::Idle)
    }

    /// Ends both connections. The sockets are closed when the returned value is dropped: sent bytes
    /// are still delivered after [`CloseReason::Closed`]; with any other reason both connections are
    /// reset.
    pub(crate) fn end(self, reason: CloseReason, rules: &Rules) -> EndedConnection<U> {
        if reason == CloseReason::Closed {
            self.client.deliver_on_close();
            self.origin.iter().for_each(Peer::deliver_on_close);
        }
        let seen = self.opening.into_seen();
        let verdict = self.verdict;
        let outcome = Outcome {
            verdict: verdict
                .unwrap_or_else(|| rules.decide(self.upstream.destination(), seen.host())),
            connect: Some(self.connect),
            connect_time: self.connect_time,
            relayed: Relayed {
                bytes_up: self.up.count(),
                bytes_down: self.down.count(),
                reason,
            },
            seen,
        };
        EndedConnection {
            upstream: self.upstream,
            outcome,
            sockets: (self.client, self.origin),
        }
    }

    fn sniff_to_refuse(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        match self
            .opening
            .read_until_decided(&mut self.client, context.copy_buffer)
        {
            Ok(()) if !self.opening.is_decided() => Ok(Progress::Waiting),
            _ => Err(CloseReason::Denied),
        }
    }

    fn sniff(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        self.opening
            .read_until_decided(&mut self.client, context.copy_buffer)?;
        if self.opening.is_decided() {
            self.decide(context.rules)?;
            self.connect(context)?;
        }
        Ok(Progress::Waiting)
    }

    /// Decides by the opening, which is decided or has ended.
    fn decide(&mut self, rules: &Rules) -> Result<(), CloseReason> {
        let verdict = rules.decide(self.upstream.destination(), self.opening.host());
        let denied = verdict.is_deny();
        self.verdict = Some(verdict);
        if denied {
            Err(CloseReason::Denied)
        } else {
            Ok(())
        }
    }

    fn connect(&mut self, context: &mut LoopContext<'_>) -> Result<(), CloseReason> {
        self.phase = Phase::Connecting(Instant::now());
        let stream = self.upstream.connect();
        let origin = Peer::origin(stream.map_err(|error| CloseReason::from_connect(&error))?);
        reset_on_close(origin.as_fd());
        context.watch(&origin, RelaySide::Origin)?;
        self.origin = Some(origin);
        Ok(())
    }

    fn check_connect(
        &mut self,
        since: Instant,
        context: &mut LoopContext<'_>,
    ) -> Result<Progress, CloseReason> {
        let connected = match &self.origin {
            Some(origin) => origin.is_connected().map_err(connect_failed)?,
            None => false,
        };
        if connected {
            self.connect_time = Some(since.elapsed());
            self.phase = Phase::Relaying;
            return self.relay(context);
        }
        self.opening
            .read_until_decided(&mut self.client, context.copy_buffer)?;
        Ok(Progress::Waiting)
    }

    fn relay(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        let up = self.pump_up(context)?;
        let down = self.pump_down(context)?;
        match (
            self.up.is_finished(),
            self.down.is_finished(),
            &mut self.origin,
        ) {
            // Both are closed next, which has the same effect as the second half-close and saves a
            // call.
            (true, true, _) => return Err(CloseReason::Closed),
            (true, false, Some(origin)) => origin.half_close()?,
            (false, true, _) => self.client.half_close()?,
            _ => {}
        }
        match (up, down) {
            (Progress::Waiting, Progress::Waiting) => Ok(Progress::Waiting),
            _ => Ok(Progress::Ready),
        }
    }

    fn pump_up(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        if self.verdict.is_none() {
            self.opening
                .read_until_decided(&mut self.client, context.copy_buffer)?;
            if !self.opening.is_decided() {
                return Ok(Progress::Waiting);
            }
            self.decide(context.rules)?;
        }
        let Some(origin) = &mut self.origin else {
            return Ok(Progress::Waiting);
        };
        if self.opening.is_passed_on() {
            (self.up).pump(&mut self.client, origin, context.copy_buffer, context.pipes)
        } else {
            (self.opening).pass_on(&mut self.client, origin, &mut self.up, context)
        }
    }

    fn pump_down(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        let Some(origin) = &mut self.origin else {
            return Ok(Progress::Waiting);
        };
        (self.down).pump(origin, &mut self.client, context.copy_buffer, context.pipes)
    }

    fn refuse(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        self.origin = None;
        let rule = self
            .verdict
            .as_ref()
            .and_then(|verdict| verdict.rule.as_deref());
        let refusal = match self.down.count() {
            0 => Refusal::new(self.opening.seen(), rule.unwrap_or_default()),
            _ => None, // the client would take a refusal for more bytes of the origin
        };
        self.phase = Phase::Refusing(refusal.ok_or(CloseReason::Denied)?);
        context.start_timer(TimerKind::Refusal);
        self.advance(context)
    }
}

/// Sets TCP_NODELAY, and makes a close a reset. Called on a listener, as accepted sockets inherit
/// both, or on an accepted socket.
pub(crate) fn prepare(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_tcp_nodelay(true); // fails only if the connection is gone
    reset_on_close(socket);
}

/// Makes a close a reset, so that a peer does not take a part of what was sent for the whole. It is
/// set at the beginning, since the process may end at any time.
fn reset_on_close(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO)); // cannot fail on a TCP socket
}

fn connect_failed(source: io::Error) -> CloseReason {
    CloseReason::from_connect(&connect_error(source))
}

fn connect_error(source: io::Error) -> Error {
    let what = "connect to the destination";
    Error::System { what, source }
}
