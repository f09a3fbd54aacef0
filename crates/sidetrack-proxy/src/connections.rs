//! The TCP connections of one event loop: accepts them, advances them at each event, and closes
//! them.
//!
//! ```text
//!   Reactor ─┬─ listener ────────── accept ── Connection::begin ─────┐
//!            ├─ client or origin ── note ──── Connection::advance ───┼─ ended ── close ── on_end
//!            └─ timer ───────────── Connection::timer_expired ───────┘
//! ```
//!
//! If the source's clients are held, notices come instead of the listener: see `pended`.
//!
//! A server has one loop for each processor, each with its thread, up to
//! [`LOOPS_MAX`](crate::serve::LOOPS_MAX). The loop that accepts a connection, or holds its client,
//! keeps it until its end. So while a connection is relayed, its thread takes no lock and wakes no
//! other thread. What loops share is the listener, the stop, the count of open pipes, which is
//! atomic, and, where clients are held, which loop holds which client. The caller's `on_end` may
//! lock: [`serve`](mod@crate::serve) locks the table of names once at the end of each connection.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use sidetrack::Error;
use slab::Slab;

use crate::close_reason::{CloseReason, RelaySide};
use crate::connection::{
    Connection, ConnectionId, ConnectionRegistry, ConnectionTimer, EndedConnection, LoopContext,
    LoopSocket, TIMEOUT_CHECKS, TimerKind, prepare,
};
use crate::outcome::Outcome;
use crate::reactor::{AfterListener, EventHandler, Reactor, Stop};
use crate::relay::{COPY_SIZE, Pipes, Progress};
use crate::settings::Settings;
use crate::upstream::Upstream;

mod client;
mod loops;
mod pended;
mod source;

use client::{Client, Tracked};
use pended::Held;
use source::{ConnectionSource, NoSource};

pub(crate) use loops::PendedLoops;

/// What a loop does, for its errors.
const WAIT: &str = "wait for connections";

/// The event loop of one thread for connections, see the module's description.
pub(crate) struct ConnectionLoop<'a, S: ConnectionSource> {
    reactor: Reactor<'a, LoopSocket, ConnectionTimer>,
    connections: Connections<'a, S>,
}

/// The connections of one loop.
struct Connections<'a, S: ConnectionSource> {
    source: &'a S,
    settings: &'a Settings,
    stop: &'a Stop,
    /// Called once for each connection that has ended, before its sockets are closed.
    on_end: &'a dyn Fn(S::Upstream, Outcome),
    table: Slab<Tracked<S>>,
    /// `None` if clients are accepted first.
    held: Option<Held<'a, S::Upstream>>,
    /// The serial of the newest connection.
    serial: u64,
    /// The number of connections that the loop handles at a time.
    connections_max: usize,
    /// The connections that can continue without an event.
    ready: Vec<ConnectionId>,
    /// The connections that have ended and are not closed yet, by key.
    ended: Vec<(usize, CloseReason)>,
    /// Whether what had come before the loop was stopped was taken.
    is_drained: bool,
    pipes: Pipes,
    /// Where bytes are copied through, for all connections of the loop.
    copy_buffer: Box<[u8]>,
}

impl<'a, S: ConnectionSource> ConnectionLoop<'a, S> {
    /// Makes a loop that takes connections from `source`, at most `connections_max` at a time.
    /// `on_end` is called with each connection's outcome after its end. `pended` are the loops of
    /// the source, and the index of this one, if the source has notices.
    ///
    /// Errors: [`Error::System`], if the kernel refuses what an event loop needs.
    pub(crate) fn new(
        source: &'a S,
        settings: &'a Settings,
        stop: &'a Stop,
        connections_max: usize,
        pended: Option<(&'a PendedLoops<S::Upstream>, usize)>,
        on_end: &'a dyn Fn(S::Upstream, Outcome),
    ) -> Result<Self, Error> {
        let shorter = settings.idle_timeout.min(settings.connect_timeout);
        let check_interval = shorter / TIMEOUT_CHECKS;
        let pended = pended.zip(source.notices());
        let sockets = source.sockets().filter(|_| pended.is_none());
        let mut reactor = Reactor::new(WAIT, sockets, check_interval, stop)?;
        let held = pended
            .map(|((loops, index), notices)| Held::new(loops, index, notices, reactor.registry()));
        Ok(Self {
            reactor,
            connections: Connections {
                source,
                settings,
                stop,
                on_end,
                table: Slab::new(),
                held: held.transpose()?,
                serial: 0,
                connections_max,
                ready: Vec::new(),
                ended: Vec::new(),
                is_drained: false,
                pipes: Pipes::default(),
                copy_buffer: vec![0; COPY_SIZE].into(),
            },
        })
    }

    /// Runs until the loop was stopped and its connections have ended.
    ///
    /// Errors: the source's, if accepting cannot work again; [`Error::System`], if waiting for
    /// events fails.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        self.reactor.run(&mut self.connections)
    }
}

impl<S: ConnectionSource> EventHandler for Connections<'_, S> {
    type Socket = LoopSocket;
    type Timer = ConnectionTimer;

    fn round_begun(&mut self) {
        if let Some(held) = &self.held {
            held.loops.set_free(held.index, false);
        }
    }

    fn listener_ready(
        &mut self,
        socket: usize,
        registry: &mut ConnectionRegistry,
    ) -> Result<AfterListener, Error> {
        match self.source.accept(socket) {
            Ok(None) => {}
            Ok(Some((client, upstream))) => self.begin(client, upstream, registry),
            Err(error) if is_final(&error) => return Err(error),
            Err(_) => return Ok(AfterListener::Pause),
        }
        Ok(match self.has_room() {
            true => AfterListener::Continue,
            false => AfterListener::WaitForRoom,
        })
    }

    fn socket_ready(
        &mut self,
        socket: LoopSocket,
        events: EventFlags,
        registry: &mut ConnectionRegistry,
    ) {
        match socket {
            LoopSocket::Connection(key, side) => self.note(key, side, events, registry),
            LoopSocket::Notices => self.read_notices(registry),
            LoopSocket::Handovers => self.take_handovers(registry),
            LoopSocket::Listening(socket) => self.listening_socket_ready(socket, registry),
        }
    }

    /// Advances the connections that were not done at their last event, and begins with clients that
    /// had to wait for room.
    fn events_handled(&mut self, registry: &mut ConnectionRegistry) {
        for id in std::mem::take(&mut self.ready) {
            self.advance(id, registry, Connection::advance);
        }
        self.begin_waiting(registry);
        if self.stop.is_requested() && !std::mem::replace(&mut self.is_drained, true) {
            self.drain(registry);
        }
    }

    fn timer_expired(&mut self, timer: ConnectionTimer, registry: &mut ConnectionRegistry) {
        match timer.kind {
            TimerKind::Accept => self.accept_timed_out(timer.id),
            TimerKind::Listening => self.resume_listening(registry),
            kind => self.advance(timer.id, registry, |connection, context| {
                connection.timer_expired(kind, context)
            }),
        }
    }

    /// Ends the connections whose time-outs are over.
    fn check(&mut self, now: Instant) {
        for (key, tracked) in &mut self.table {
            if !tracked.has_ended
                && let Client::Open(connection) = &mut tracked.client
                && let Some(reason) = connection.check_timeouts(now, self.settings)
            {
                tracked.has_ended = true;
                self.ended.push((key, reason));
            }
        }
    }

    /// Closes the connections that have ended in this round.
    fn round_ended(&mut self) {
        for (key, reason) in std::mem::take(&mut self.ended) {
            match self.table.remove(key).client {
                Client::Open(connection) => self.close(connection, reason),
                Client::Held(client) => self.close_held(client, reason),
            }
        }
        if let Some(held) = &self.held {
            let is_free = !self.has_ready() && self.has_room();
            held.loops.set_free(held.index, is_free);
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ended.is_empty() || self.can_begin_waiting()
    }

    fn has_room(&self) -> bool {
        let waiting = self.held.as_ref().map_or(0, Held::waiting_count);
        self.table.len() - waiting < self.connections_max
    }

    fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn end_all(&mut self, _: Instant) {
        let left = self
            .table
            .iter()
            .map(|(key, _)| (key, CloseReason::Stopped));
        self.ended.extend(left);
        self.round_ended();
    }
}

impl<S: ConnectionSource> Connections<'_, S> {
    /// Adds a connection to the table and begins with it.
    fn begin(
        &mut self,
        client: TcpStream,
        upstream: S::Upstream,
        registry: &mut ConnectionRegistry,
    ) {
        let connection = Connection::new(client, upstream, &self.settings.rules);
        let id = self.insert(Client::Open(connection));
        self.advance(id, registry, Connection::begin);
    }

    /// Takes what waits at the source when the loop is stopped, so that each connection has a line.
    fn drain(&mut self, registry: &mut ConnectionRegistry) {
        if self.held.is_some() {
            return self.drain_notices();
        }
        for socket in 0..self.source.sockets().count() {
            while let Ok(Some((client, upstream))) = self.source.accept(socket) {
                self.begin(client, upstream, registry);
            }
        }
    }

    fn insert(&mut self, client: Client<S>) -> ConnectionId {
        self.serial += 1;
        let serial = self.serial;
        let key = self.table.insert(Tracked {
            client,
            serial,
            has_ended: false,
        });
        ConnectionId { key, serial }
    }

    /// Notes an event of a client's or an origin's socket, and acts on it.
    fn note(
        &mut self,
        key: usize,
        side: RelaySide,
        events: EventFlags,
        registry: &mut ConnectionRegistry,
    ) {
        let Some(tracked) = self.table.get_mut(key) else {
            return;
        };
        let id = tracked.id(key);
        match &mut tracked.client {
            Client::Open(connection) => {
                connection.note(side, events);
                self.advance(id, registry, Connection::advance);
            }
            Client::Held(client) => {
                client.note(events);
                self.advance_held(id, registry, |client, _| client.advance());
            }
        }
    }

    fn advance(
        &mut self,
        id: ConnectionId,
        registry: &mut ConnectionRegistry,
        advance: impl FnOnce(
            &mut Connection<S::Upstream>,
            &mut LoopContext<'_>,
        ) -> Result<Progress, CloseReason>,
    ) {
        let progress = self.step(id, registry, |client, context| match client {
            Client::Open(connection) => advance(connection, context),
            Client::Held(_) => Ok(Progress::Waiting),
        });
        if progress == Some(Progress::Ready) && !self.ready.contains(&id) {
            self.ready.push(id);
        }
    }

    /// Does one step with a client that is open. An error is the reason to close it. Returns what the
    /// step returned, if it was no error.
    fn step<T>(
        &mut self,
        id: ConnectionId,
        registry: &mut ConnectionRegistry,
        step: impl FnOnce(&mut Client<S>, &mut LoopContext<'_>) -> Result<T, CloseReason>,
    ) -> Option<T> {
        let tracked = self.table.get_mut(id.key)?;
        if !tracked.is_open(id) {
            return None;
        }
        let mut context = LoopContext {
            rules: &self.settings.rules,
            copy_buffer: &mut self.copy_buffer,
            pipes: &mut self.pipes,
            registry,
            id,
        };
        match step(&mut tracked.client, &mut context) {
            Ok(done) => Some(done),
            Err(reason) => {
                self.end(id.key, reason);
                None
            }
        }
    }

    /// Ends a client. It is closed at the end of the round.
    fn end(&mut self, key: usize, reason: CloseReason) {
        if let Some(tracked) = self.table.get_mut(key)
            && !std::mem::replace(&mut tracked.has_ended, true)
        {
            self.ended.push((key, reason));
        }
    }

    fn close(&mut self, connection: Connection<S::Upstream>, reason: CloseReason) {
        let EndedConnection {
            upstream,
            outcome,
            sockets,
        } = connection.end(reason, &self.settings.rules);
        // The line comes before the close. So if this process is killed, each connection either has
        // its line, or the kernel closes its socket, and counts it as lost with its proxy.
        (self.on_end)(upstream, outcome);
        drop(sockets);
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
    let source = NoSource(PhantomData);
    let mut event_loop = ConnectionLoop::new(&source, settings, stop, 1, None, &on_end)?;
    event_loop.reactor.end_when_empty();
    prepare(client.as_fd());
    let registry = event_loop.reactor.registry();
    event_loop.connections.begin(client, upstream, registry);
    event_loop.run()?;
    Ok(outcome.take().expect("the loop ended with its connection"))
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
