//! The event loop that serves TCP connections: it accepts them, advances them at each event, and
//! closes them.
//!
//! ```text
//!   epoll ─┬─ listener ────────── accept ── Connection::begin ─────┐
//!          ├─ client or origin ── note ──── Connection::advance ───┼─ ended ── close ── on_end
//!          ├─ timer ───────────── Connection::timer_expired ───────┘
//!          └─ stop
//! ```
//!
//! Each loop has its thread, and a server has one loop for each processor, up to
//! [`LOOPS_MAX`](crate::serve::LOOPS_MAX). The loop that accepts a connection keeps it until its
//! end. So while a connection is relayed, its thread takes no lock and wakes no other thread. What
//! loops share is the listener, the stop, and the count of open pipes, which is atomic. The
//! caller's `on_end` may lock: [`serve`](mod@crate::serve) locks the table of names once at the end
//! of each connection.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use sidetrack::Error;
use slab::Slab;

use crate::busy_poll::Poller;
use crate::close_reason::{CloseReason, RelaySide};
use crate::connection::{Connection, IDLE_CHECKS, prepare};
use crate::outcome::Outcome;
use crate::relay::{COPY_SIZE, Pipes, Progress};
use crate::settings::Settings;
use crate::upstream::Upstream;

mod loop_context;
mod source;
mod stop;

use loop_context::ConnectionId;
use source::{NoSource, Source};

pub use stop::Stop;

pub(crate) use loop_context::{LoopContext, Timer};

/// How long a loop stops accepting after an accept failed for a reason that may pass, such as a
/// lack of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Values of epoll's event data: [`STOP`], below it one for each socket of the listener from
/// [`LISTENER`] down to [`LISTENER_LAST`], and from 0 up two for each connection, see
/// `ConnectionId::token`.
const STOP: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const LISTENER_LAST: u64 = LISTENER - 15;

/// A connection in the loop's table.
struct TrackedConnection<U> {
    connection: Connection<U>,
    /// Distinguishes it from other connections that had the same key before, see `ConnectionId`.
    serial: u64,
    /// Whether it has ended. It is closed only after all events of the round are handled, as some
    /// of them may be its own.
    has_ended: bool,
}

/// The event loop of one thread, see the module's description.
pub(crate) struct ConnectionLoop<'a, S: Source> {
    source: &'a S,
    settings: &'a Settings,
    stop: &'a Stop,
    /// Called once for each connection after it was closed.
    on_end: &'a dyn Fn(S::Upstream, Outcome),
    epoll: OwnedFd,
    connections: Slab<TrackedConnection<S::Upstream>>,
    /// The serial of the newest connection.
    serial: u64,
    /// The number of connections that the loop handles at a time.
    connections_max: usize,
    accepting: Accepting,
    /// For each kind of [`Timer`], when it expires for which connection, in order of time.
    timers: [VecDeque<(Instant, ConnectionId)>; 2],
    /// The connections that can continue without an event.
    ready: Vec<ConnectionId>,
    /// The connections that have ended and are not closed yet, by key.
    ended: Vec<(usize, CloseReason)>,
    next_idle_check: Instant,
    pipes: Pipes,
    /// Where bytes are copied through, for all connections of the loop.
    copy_buffer: Box<[u8]>,
}

/// Whether the loop accepts connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// Not before a connection ends, as there are `connections_max`.
    Full,
    /// Not before this time, as an accept failed for a reason that may pass.
    Paused(Instant),
    /// Not any more. The loop ends when its connections have ended, or at this time.
    Stopping(Option<Instant>),
}

impl<'a, S: Source> ConnectionLoop<'a, S> {
    /// Makes a loop that takes connections from `source`, at most `connections_max` at a time.
    /// `on_end` is called with each connection's outcome after its end.
    ///
    /// Errors: [`Error::System`], if the kernel refuses what an event loop needs.
    pub(crate) fn new(
        source: &'a S,
        settings: &'a Settings,
        stop: &'a Stop,
        connections_max: usize,
        on_end: &'a dyn Fn(S::Upstream, Outcome),
    ) -> Result<Self, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(wait_error)?;
        let token = EventData::new_u64(STOP);
        epoll::add(&epoll, stop.event(), token, EventFlags::IN).map_err(wait_error)?;
        let event_loop = Self {
            source,
            settings,
            stop,
            on_end,
            epoll,
            connections: Slab::new(),
            serial: 0,
            connections_max,
            accepting: Accepting::Yes,
            timers: Default::default(),
            ready: Vec::new(),
            ended: Vec::new(),
            next_idle_check: Instant::now(),
            pipes: Pipes::default(),
            copy_buffer: vec![0; COPY_SIZE].into(),
        };
        event_loop.watch_listener()?;
        Ok(event_loop)
    }

    /// Runs until the loop was stopped and its connections have ended.
    ///
    /// Errors: the source's, if accepting cannot work again; [`Error::System`], if waiting for
    /// events fails.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let mut poller = Poller::new();
        loop {
            let events = poller.wait(&self.epoll, self.timeout());
            for event in events.map_err(wait_error)? {
                match event.data.u64() {
                    STOP => self.begin_stop()?,
                    token if token >= LISTENER_LAST => self.accept((LISTENER - token) as usize)?,
                    token => self.handle_event((token / 2) as usize, token % 2 == 1, event.flags),
                }
            }
            self.advance_ready();
            self.run_timers(Instant::now());
            self.close_ended();
            if let Accepting::Stopping(deadline) = self.accepting
                && (self.connections.is_empty() || self.stop_at(deadline))
            {
                return Ok(());
            }
        }
    }

    /// The time until the loop has something to do without an event; `None` if there is nothing.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let timers = self
            .timers
            .iter()
            .filter_map(|queue| Some(queue.front()?.0));
        let idle_check = (!self.connections.is_empty()).then_some(self.next_idle_check);
        let accepting = match self.accepting {
            Accepting::Paused(until) => Some(until),
            Accepting::Stopping(until) => until,
            Accepting::Yes | Accepting::Full => None,
        };
        let next = timers.chain(idle_check).chain(accepting).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self, socket: usize) -> Result<(), Error> {
        if self.accepting != Accepting::Yes {
            return Ok(());
        }
        match self.source.accept(socket) {
            Ok(None) => {}
            Ok(Some((client, upstream))) => self.begin(client, upstream),
            Err(error) if is_final(&error) => return Err(error),
            Err(_) => self.stop_accepting(Accepting::Paused(Instant::now() + ACCEPT_PAUSE)),
        }
        if self.connections.len() >= self.connections_max && self.accepting == Accepting::Yes {
            self.stop_accepting(Accepting::Full);
        }
        Ok(())
    }

    /// Adds a connection to the table and begins with it.
    fn begin(&mut self, client: TcpStream, upstream: S::Upstream) {
        if self.connections.is_empty() {
            self.next_idle_check = Instant::now() + self.idle_check_interval();
        }
        self.serial += 1;
        let (serial, rules) = (self.serial, &self.settings.rules);
        let key = self.connections.insert(TrackedConnection {
            connection: Connection::new(client, upstream, rules),
            serial,
            has_ended: false,
        });
        self.advance(ConnectionId { key, serial }, Connection::begin);
    }

    fn handle_event(&mut self, key: usize, is_origin: bool, flags: EventFlags) {
        let side = if is_origin {
            RelaySide::Origin
        } else {
            RelaySide::Client
        };
        if let Some(tracked) = self.connections.get_mut(key) {
            tracked.connection.note(side, flags);
            let serial = tracked.serial;
            self.advance(ConnectionId { key, serial }, Connection::advance);
        }
    }

    fn advance(
        &mut self,
        id: ConnectionId,
        advance: impl FnOnce(
            &mut Connection<S::Upstream>,
            &mut LoopContext<'_>,
        ) -> Result<Progress, CloseReason>,
    ) {
        let tracked = self.connections.get_mut(id.key);
        let Some(tracked) =
            tracked.filter(|tracked| tracked.serial == id.serial && !tracked.has_ended)
        else {
            return;
        };
        let mut context = LoopContext {
            rules: &self.settings.rules,
            copy_buffer: &mut self.copy_buffer,
            pipes: &mut self.pipes,
            epoll: &self.epoll,
            timers: &mut self.timers,
            id,
        };
        match advance(&mut tracked.connection, &mut context) {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Ready) if self.ready.contains(&id) => {}
            Ok(Progress::Ready) => self.ready.push(id),
            Err(reason) => {
                tracked.has_ended = true;
                self.ended.push((id.key, reason));
            }
        }
    }

    /// Advances the connections that were not done at their last event.
    fn advance_ready(&mut self) {
        for id in std::mem::take(&mut self.ready) {
            self.advance(id, Connection::advance);
        }
    }

    /// Calls what is due at `now`: connections' timers, the idle check, accepting after a pause.
    fn run_timers(&mut self, now: Instant) {
        for (timer, _) in Timer::ALL {
            while let Some((until, id)) = self.timers[timer as usize].front().copied()
                && until <= now
            {
                self.timers[timer as usize].pop_front();
                self.advance(id, |connection, context| {
                    connection.timer_expired(timer, context)
                });
            }
        }
        if now >= self.next_idle_check {
            self.next_idle_check = now + self.idle_check_interval();
            for (key, tracked) in &mut self.connections {
                if !tracked.has_ended && tracked.connection.check_idle() {
                    tracked.has_ended = true;
                    self.ended.push((key, CloseReason::Idle));
                }
            }
        }
        if let Accepting::Paused(until) = self.accepting
            && now >= until
        {
            self.resume_accepting();
        }
    }

    fn idle_check_interval(&self) -> Duration {
        self.settings.idle_timeout / IDLE_CHECKS
    }

    /// Closes the connections that have ended in this round, and accepts again if there is a place.
    fn close_ended(&mut self) {
        for (key, reason) in std::mem::take(&mut self.ended) {
            let connection = self.connections.remove(key).connection;
            let (upstream, outcome) = connection.close(reason, &self.settings.rules);
            (self.on_end)(upstream, outcome);
        }
        if self.accepting == Accepting::Full && self.connections.len() < self.connections_max {
            self.resume_accepting();
        }
    }

    fn begin_stop(&mut self) -> Result<(), Error> {
        // The event stays readable, since the other loops wait for it too.
        epoll::delete(&self.epoll, self.stop.event()).map_err(wait_error)?;
        self.stop_accepting(Accepting::Stopping(Some(self.stop.deadline())));
        Ok(())
    }

    /// Closes all connections if the deadline has passed. Returns whether it has.
    fn stop_at(&mut self, deadline: Option<Instant>) -> bool {
        if deadline.is_none_or(|deadline| Instant::now() < deadline) {
            return false;
        }
        let left = self
            .connections
            .iter()
            .map(|(key, _)| (key, CloseReason::Stopped));
        self.ended.extend(left);
        self.close_ended();
        true
    }

    /// Stops waiting for the listener, with the reason in `accepting`.
    fn stop_accepting(&mut self, accepting: Accepting) {
        if self.accepting == Accepting::Yes {
            for socket in self.source.sockets() {
                let _ = epoll::delete(&self.epoll, socket); // fails only if the socket was not added
            }
        }
        self.accepting = accepting;
    }

    fn resume_accepting(&mut self) {
        self.accepting = match self.watch_listener() {
            Ok(()) => Accepting::Yes,
            Err(_) => Accepting::Paused(Instant::now() + ACCEPT_PAUSE),
        };
    }

    fn watch_listener(&self) -> Result<(), Error> {
        // Without EXCLUSIVE each new connection would wake all loops.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        for (token, socket) in (LISTENER_LAST..=LISTENER).rev().zip(self.source.sockets()) {
            match epoll::add(&self.epoll, socket, EventData::new_u64(token), flags) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(wait_error(error)),
            }
        }
        Ok(())
    }
}

/// Relays one connection to its end, in the calling thread. `client` is the accepted socket and
/// must be non-blocking.
///
/// Errors: [`Error::System`], if the kernel refuses what an event loop needs.
pub fn relay_connection<U: Upstream>(
    client: TcpStream,
    upstream: U,
    settings: &Settings,
    stop: &Stop,
) -> Result<Outcome, Error> {
    let outcome = Cell::new(None);
    let on_end = |_, one| outcome.set(Some(one));
    let mut event_loop = ConnectionLoop::new(&NoSource(PhantomData), settings, stop, 1, &on_end)?;
    event_loop.accepting = Accepting::Stopping(None);
    prepare(client.as_fd());
    event_loop.begin(client, upstream);
    event_loop.run()?;
    Ok(outcome.take().expect("the loop ended with its connection"))
}

fn wait_error(source: Errno) -> Error {
    Error::System {
        what: "wait for connections",
        source: source.into(),
    }
}

/// Whether accepting cannot work again after this error. Unknown system errors are taken as ones
/// that pass: they may concern one connection only, and the pause keeps the loop from spinning.
fn is_final(error: &Error) -> bool {
    match error {
        Error::System { source, .. } => source.kind() == io::ErrorKind::InvalidInput,
        Error::NoContext => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
