//! One redirected connection, from accept to its end.
//!
//! ```text
//!   rules.before ─denied────────▶ Condemned ─────────▶ Refusing ──▶ over
//!      │   └─depends on the host─▶ Sniffing ──denied──────▶ ▲
//!      └─allowed─▶ Connecting ◀───────┘ allowed, or         │
//!                      │                silent for SNIFF_WAIT
//!                      ▼                                    │
//!                  Relaying                                 │
//!                    client→origin: opening, rules if still open ─denied
//!                                   then pumped
//!                    origin→client: pumped
//! ```
//!
//! What the client sends is held back until no rule can refuse it any more; what the origin sends
//! is not. So protocols in which the server speaks first work, and nobody evades a rule by waiting.
//!
//! A connection never waits: its `turn` does what can be done, and is called again at the
//! next event of its sockets.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use sidetrack::Flow;
use socket2::SockRef;

use crate::close_reason::{CloseReason, RelaySide};
use crate::connections::{LoopContext, Timer};
use crate::relay::{Direction, Peer, Progress};
use crate::rules::{Rules, Verdict};
use crate::sniff::Seen;

mod opening;
mod refusal;

use opening::Opening;
use refusal::Refusal;

pub use refusal::{REFUSAL_SIZE_MAX, REFUSAL_WAIT};

/// How long a client may be silent before the origin is connected to all the same, as its server
/// may be the one to speak first.
pub const SNIFF_WAIT: Duration = Duration::from_millis(200);
/// How often within the idle time-out the counts are looked at: a connection ends at most a quarter
/// of the time-out late, and no timer is set anew for each chunk.
pub const IDLE_CHECKS: u32 = 4;

/// The way on from an accepted connection.
pub trait Upstream {
    /// Where the client wanted to go.
    fn destination(&self) -> SocketAddr;
    /// A non-blocking connection to the origin, made or under way. Called once, and only if the
    /// connection may go on.
    fn connect(&self) -> Result<TcpStream, sidetrack::Error>;
}

impl Upstream for Flow {
    fn destination(&self) -> SocketAddr {
        self.original_destination()
    }

    fn connect(&self) -> Result<TcpStream, sidetrack::Error> {
        self.connect_nonblocking()
    }
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the client began with.
    pub seen: Seen,
    /// What the rules said. Of a connection that ended before: what they say of what was seen.
    pub verdict: Verdict,
    /// How long it took to connect to the origin; `None` if it was not tried or did not succeed.
    pub connect_time: Option<Duration>,
    /// The counts, and how it ended.
    pub relayed: Relayed,
}

/// What a relay did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes handed to the origin's connection.
    pub bytes_up: u64,
    /// Bytes handed to the client's connection.
    pub bytes_down: u64,
    /// Why it is over.
    pub reason: CloseReason,
}

/// Dropping it resets both connections, unless it ended well.
pub(crate) struct Connection<U> {
    upstream: U,
    client: Peer,
    origin: Option<Peer>,
    phase: Phase,
    opening: Opening,
    /// `None` as long as it depends on what the client will send.
    verdict: Option<Verdict>,
    connect_time: Option<Duration>,
    up: Direction,
    down: Direction,
    idleness: Idleness,
}

enum Phase {
    /// Denied already; the client is listened to only to refuse it in its own language.
    SniffingToRefuse,
    /// The rules depend on what it will say.
    Sniffing,
    /// Since then.
    Connecting(Instant),
    Relaying,
    Refusing(Refusal),
}

/// The bytes that had gone at the last look, and for how many looks it has been so many.
#[derive(Default)]
struct Idleness {
    sum: Option<u64>,
    checks: u32,
}

impl<U: Upstream> Connection<U> {
    /// Takes the accepted connection `client`, which is non-blocking and was [prepared](prepare).
    pub(crate) fn new(client: TcpStream, upstream: U, rules: &Rules) -> Self {
        let verdict = rules.decide_by_address(upstream.destination());
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
            connect_time: None,
            up: Direction::default(),
            down: Direction::default(),
            idleness: Idleness::default(),
        }
    }

    /// The first turn.
    pub(crate) fn begin(&mut self, context: &mut LoopContext<'_>) -> Result<Progress, CloseReason> {
        context.watch(&self.client, RelaySide::Client)?;
        match self.phase {
            Phase::Sniffing if self.verdict.is_some() => self.connect(context)?,
            _ => context.start_timer(Timer::Sniff),
        }
        Ok(Progress::Waiting)
    }

    /// Notes an event of one of its sockets.
    pub(crate) fn note(&mut self, side: RelaySide, events: EventFlags) {
        match (side, &mut self.origin) {
            (RelaySide::Client, _) => self.client.note(events),
            (RelaySide::Origin, Some(origin)) => origin.note(events),
            (RelaySide::Origin, None) => {} // it was closed after the event
        }
    }

    /// Goes on as far as that is possible without waiting; an error is its end.
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

    /// It has waited as long as it wanted to.
    pub(crate) fn timer_expired(
        &mut self,
        timer: Timer,
        context: &mut LoopContext<'_>,
    ) -> Result<Progress, CloseReason> {
        match (&self.phase, timer) {
            (Phase::SniffingToRefuse, Timer::Sniff) => self.refuse(context),
            (Phase::Sniffing, Timer::Sniff) if self.opening.is_silent() => {
                self.connect(context)?;
                self.advance(context)
            }
            (Phase::Refusing(_), Timer::Refusal) => Err(CloseReason::Denied),
            _ => Ok(Progress::Waiting), // it is further already
        }
    }

    /// To be called [`IDLE_CHECKS`] times within the time-out: whether no byte has gone for so long.
    pub(crate) fn check_idle(&mut self) -> bool {
        let sum = self.up.count() + self.down.count() + self.opening.count();
        if self.idleness.sum != Some(sum) {
            self.idleness = Idleness {
                sum: Some(sum),
                checks: 0,
            };
            return false;
        }
        self.idleness.checks += 1;
        self.idleness.checks >= IDLE_CHECKS
    }

    /// Closes both connections, and tells of them.
    pub(crate) fn close(self, reason: CloseReason, rules: &Rules) -> (U, Outcome) {
        if reason == CloseReason::Closed {
            self.client.deliver_on_close();
            self.origin.iter().for_each(Peer::deliver_on_close);
        }
        drop((self.client, self.origin));
        let seen = self.opening.into_seen();
        let verdict = self.verdict;
        let outcome = Outcome {
            verdict: verdict
                .unwrap_or_else(|| rules.decide(self.upstream.destination(), seen.host())),
            connect_time: self.connect_time,
            relayed: Relayed {
                bytes_up: self.up.count(),
                bytes_down: self.down.count(),
                reason,
            },
            seen,
        };
        (self.upstream, outcome)
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

    /// Decides by what was seen.
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
            // Both are closed then, which says the same as the second half-close, and spares a call.
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
            _ => None, // it would be taken for more of the origin's bytes
        };
        self.phase = Phase::Refusing(refusal.ok_or(CloseReason::Denied)?);
        context.start_timer(Timer::Refusal);
        self.advance(context)
    }
}

/// Sends what there is to send at once, and resets on close. Accepted sockets inherit both.
pub(crate) fn prepare(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_tcp_nodelay(true); // fails only on a connection that is gone
    reset_on_close(socket);
}

/// Makes any end a reset, so that nobody takes half of what was sent for the whole. Set first, as the process
/// may end at any time.
fn reset_on_close(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO)); // cannot fail on a TCP socket
}

fn connect_failed(source: std::io::Error) -> CloseReason {
    CloseReason::from_connect(&sidetrack::Error::System {
        what: "connect to the destination",
        source,
    })
}
