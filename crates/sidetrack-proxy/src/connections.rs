//! The TCP connections of one event loop: accepts them, advances them at each event, and closes
//! them.
//!
//! ```text
//!   Reactor ─┬─ listener ────────── accept ── Connection::begin ─────┐
//!            ├─ client or origin ── note ──── Connection::advance ───┼─ ended ── close ── on_end
//!            └─ timer ───────────── Connection::timer_expired ───────┘
//! ```
//!
//! A server has one loop for each processor, each with its thread, up to
//! [`LOOPS_MAX`](crate::serve::LOOPS_MAX). The loop that accepts a connection keeps it until its
//! end. So while a connection is relayed, its thread takes no lock and wakes no other thread. What
//! loops share is the listener, the stop, and the count of open pipes, which is atomic. The
//! caller's `on_end` may lock: [`serve`](mod@crate::serve) locks the table of names once at the end
//! of each connection.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use sidetrack::Error;
use slab::Slab;

use crate::close_reason::CloseReason;
use crate::connection::{
    Connection, ConnectionId, ConnectionRegistry, ConnectionSocket, ConnectionTimer,
    EndedConnection, LoopContext, TIMEOUT_CHECKS, prepare,
};
use crate::outcome::Outcome;
use crate::reactor::{AfterListener, EventHandler, Reactor, Stop};
use crate::relay::{COPY_SIZE, Pipes, Progress};
use crate::settings::Settings;
use crate::upstream::Upstream;

mod source;

use source::{ConnectionSource, NoSource};

/// What a loop does, for its errors.
const WAIT: &str = "wait for connections";

/// The event loop of one thread for connections, see the module's description.
pub(crate) struct ConnectionLoop<'a, S: ConnectionSource> {
    reactor: Reactor<'a, ConnectionSocket, ConnectionTimer>,
    connections: Connections<'a, S>,
}

/// The connections of one loop.
struct Connections<'a, S: ConnectionSource> {
    source: &'a S,
    settings: &'a Settings,
    /// Called once for each connection that has ended, before its sockets are closed.
    on_end: &'a dyn Fn(S::Upstream, Outcome),
    table: Slab<TrackedConnection<S::Upstream>>,
    /// The serial of the newest connection.
    serial: u64,
    /// The number of connections that the loop handles at a time.
    connections_max: usize,
    /// The connections that can continue without an event.
    ready: Vec<ConnectionId>,
    /// The connections that have ended and are not closed yet, by key.
    ended: Vec<(usize, CloseReason)>,
    pipes: Pipes,
    /// Where bytes are copied through, for all connections of the loop.
    copy_buffer: Box<[u8]>,
}

/// A connection in the loop's table.
struct TrackedConnection<U> {
    connection: Connection<U>,
    /// Distinguishes it from other connections that had the same key before, see `ConnectionId`.
    serial: u64,
    /// Whether it has ended. It is closed only after all events of the round are handled, as some
    /// of them may be its own.
    has_ended: bool,
}

impl<'a, S: ConnectionSource> ConnectionLoop<'a, S> {
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
        let shorter = settings.idle_timeout.min(settings.connect_timeout);
        let check_interval = shorter / TIMEOUT_CHECKS;
        Ok(Self {
            reactor: Reactor::new(WAIT, source.sockets(), check_interval, stop)?,
            connections: Connections {
                source,
                settings,
                on_end,
                table: Slab::new(),
                serial: 0,
                connections_max,
                ready: Vec::new(),
                ended: Vec::new(),
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
    type Socket = ConnectionSocket;
    type Timer = ConnectionTimer;

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
        socket: ConnectionSocket,
        events: EventFlags,
        registry: &mut ConnectionRegistry,
    ) {
        let ConnectionSocket { key, side } = socket;
        if let Some(tracked) = self.table.get_mut(key) {
            tracked.connection.note(side, events);
            let serial = tracked.serial;
            self.advance(ConnectionId { key, serial }, registry, Connection::advance);
        }
    }

    /// Advances the connections that were not done at their last event.
    fn events_handled(&mut self, registry: &mut ConnectionRegistry) {
        for id in std::mem::take(&mut self.ready) {
            self.advance(id, registry, Connection::advance);
        }
    }

    fn timer_expired(&mut self, timer: ConnectionTimer, registry: &mut ConnectionRegistry) {
        self.advance(timer.id, registry, |connection, context| {
            connection.timer_expired(timer.kind, context)
        });
    }

    /// Ends the connections whose time-outs are over.
    fn check(&mut self, now: Instant) {
        for (key, tracked) in &mut self.table {
            if !tracked.has_ended
                && let Some(reason) = tracked.connection.check_timeouts(now, self.settings)
            {
                tracked.has_ended = true;
                self.ended.push((key, reason));
            }
        }
    }

    /// Closes the connections that have ended in this round.
    fn round_ended(&mut self) {
        for (key, reason) in std::mem::take(&mut self.ended) {
            let connection = self.table.remove(key).connection;
            let EndedConnection {
                upstream,
                outcome,
                sockets,
            } = connection.end(reason, &self.settings.rules);
            // The line comes before the close. So if this process is killed, each connection either
            // has its line, or the kernel closes its socket, and counts it as lost with its proxy.
            (self.on_end)(upstream, outcome);
            drop(sockets);
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ended.is_empty()
    }

    fn has_room(&self) -> bool {
        self.table.len() < self.connections_max
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
        self.serial += 1;
        let (serial, rules) = (self.serial, &self.settings.rules);
        let key = self.table.insert(TrackedConnection {
            connection: Connection::new(client, upstream, rules),
            serial,
            has_ended: false,
        });
        self.advance(ConnectionId { key, serial }, registry, Connection::begin);
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
        let tracked = self.table.get_mut(id.key);
        let Some(tracked) =
            tracked.filter(|tracked| tracked.serial == id.serial && !tracked.has_ended)
        else {
            return;
        };
        let mut context = LoopContext {
            rules: &self.settings.rules,
            copy_buffer: &mut self.copy_buffer,
            pipes: &mut self.pipes,
            registry,
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
