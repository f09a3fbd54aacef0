//! The held clients of one event loop.
//!
//! ```text
//!   notices ──── a new client ── HeldClient::begin ──┐
//!   origin ───── connected ───── HeldClient::advance ┴─ completed ── accept ─┬─ Connection::begin
//!   handovers ── accepted by another loop ───────────────────────────────────┘
//!      └──────── gone ── ended ── on_end ── the client is refused
//! ```
//!
//! On loopback the client's connection can be accepted as soon as its SYN was let through. So the
//! loop waits for the listening sockets only while a client of it was not there at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;

use rustix::event::epoll::EventFlags;
use sidetrack::Error;

use super::Connections;
use super::client::Client;
use super::loops::{Handover, PendedLoops};
use super::source::ConnectionSource;
use crate::close_reason::CloseReason;
use crate::connection::{
    Connection, ConnectionId, ConnectionRegistry, ConnectionTimer, HeldClient, HeldProgress,
    LoopContext, LoopSocket, TimerKind,
};
use crate::reactor::EventHandler;
use crate::upstream::{PendingConnect, Upstream};

/// What an event loop keeps for its held clients.
pub(super) struct Held<'a, U> {
    pub(super) loops: &'a PendedLoops<U>,
    /// The loop's index in `loops`.
    pub(super) index: usize,
    pub(super) notices: BorrowedFd<'a>,
    /// The held clients' keys in the table, by the ids of their flows.
    keys: HashMap<u64, usize>,
    /// The clients for which there was no room, oldest first. Some may have ended.
    waiting: VecDeque<ConnectionId>,
    /// How many clients in the table wait for room.
    waiting_count: usize,
    /// How many clients in the table were let through, and have not been accepted.
    completed_count: usize,
    listening: Listening,
}

/// Whether an event loop waits for the listening sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listening {
    No,
    Yes,
    /// Not before the timer expires.
    Paused,
}

impl<'a, U> Held<'a, U> {
    /// Takes part in `loops` with this registry.
    ///
    /// Errors: [`Error::System`], if the kernel refuses what that needs.
    pub(super) fn new(
        loops: &'a PendedLoops<U>,
        index: usize,
        notices: BorrowedFd<'a>,
        registry: &ConnectionRegistry,
    ) -> Result<Self, Error> {
        let watched = registry
            .watch_disarmed(notices, LoopSocket::Notices)
            .and_then(|()| {
                registry.watch(loops.event(index), LoopSocket::Handovers, EventFlags::IN)
            });
        let arm = watched.and_then(|()| registry.arm());
        let arm = arm.map_err(|source| Error::System {
            what: "wait for notices",
            source: source.into(),
        })?;
        loops.join(index, arm, notices);
        Ok(Self {
            loops,
            index,
            notices,
            keys: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_count: 0,
            completed_count: 0,
            listening: Listening::No,
        })
    }

    /// How many clients in the table wait for room, and need neither sockets nor time.
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting_count
    }
}

impl<U> Drop for Held<'_, U> {
    fn drop(&mut self) {
        self.loops.leave(self.index, self.notices);
    }
}

impl<S: ConnectionSource> Connections<'_, S> {
    /// Reads notices, and begins with the new clients.
    pub(super) fn read_notices(&mut self, registry: &mut ConnectionRegistry) {
        let Some(held) = &self.held else { return };
        let notices = held.loops.read(held.index, self.source);
        held.loops.pass_on(held.index, held.notices);
        for pending in notices.clients {
            self.hold(pending, registry);
        }
        for flow_id in notices.gone {
            self.client_gone(flow_id);
        }
    }

    /// Reads all notices, as the loop is stopped, and refuses the clients.
    pub(super) fn drain_notices(&mut self) {
        let Some(held) = &self.held else { return };
        let (mut clients, mut gone) = (Vec::new(), HashSet::new());
        loop {
            let notices = held.loops.read(held.index, self.source);
            if notices.clients.is_empty() && notices.gone.is_empty() {
                break;
            }
            clients.extend(notices.clients);
            gone.extend(notices.gone);
        }
        gone.iter().for_each(|&flow_id| self.client_gone(flow_id));
        for pending in clients {
            let reason = match gone.contains(&pending.flow_id()) {
                true => CloseReason::ClientGaveUp,
                false => CloseReason::Stopped,
            };
            let id = self.add_held(pending);
            self.end(id.key, reason);
        }
    }

    /// Takes what other loops have handed over.
    pub(super) fn take_handovers(&mut self, registry: &mut ConnectionRegistry) {
        let Some(held) = &self.held else { return };
        for handover in held.loops.take_handovers(held.index) {
            match handover {
                Handover::Accepted(client, upstream) => self.accepted(client, upstream, registry),
                Handover::Gone(flow_id) => self.client_gone(flow_id),
            }
        }
    }

    /// Adds a held client to the table, and begins with it if there is room.
    fn hold(&mut self, pending: S::Pending, registry: &mut ConnectionRegistry) {
        let has_room = self.has_room();
        let id = self.add_held(pending);
        let Some(held) = &mut self.held else { return };
        if self.stop.is_requested() {
            self.end(id.key, CloseReason::Stopped);
        } else if has_room {
            self.begin_held(id, registry);
        } else {
            held.waiting.push_back(id);
        }
    }

    fn add_held(&mut self, pending: S::Pending) -> ConnectionId {
        let flow_id = pending.flow_id();
        let client = HeldClient::new(pending, &self.settings.rules);
        let id = self.insert(Client::Held(client));
        if let Some(held) = &mut self.held {
            held.keys.insert(flow_id, id.key);
            held.waiting_count += 1;
        }
        id
    }

    /// Begins with the clients that wait for room, as far as there is room now.
    pub(super) fn begin_waiting(&mut self, registry: &mut ConnectionRegistry) {
        while self.can_begin_waiting() {
            let next = self.held.as_mut().and_then(|held| held.waiting.pop_front());
            if let Some(id) = next {
                self.begin_held(id, registry);
            }
        }
    }

    /// Whether a client waits for room, and there is some.
    pub(super) fn can_begin_waiting(&self) -> bool {
        let waits = self
            .held
            .as_ref()
            .is_some_and(|held| !held.waiting.is_empty());
        waits && self.has_room()
    }

    fn begin_held(&mut self, id: ConnectionId, registry: &mut ConnectionRegistry) {
        let Some(held) = &mut self.held else { return };
        let tracked = self.table.get(id.key).filter(|one| one.is_open(id));
        if tracked.is_none() {
            return; // it has ended while it waited
        }
        held.waiting_count -= 1;
        self.advance_held(id, registry, HeldClient::begin);
    }

    /// Advances a held client, and accepts it if it was let through.
    pub(super) fn advance_held(
        &mut self,
        id: ConnectionId,
        registry: &mut ConnectionRegistry,
        advance: impl FnOnce(
            &mut HeldClient<S::Pending>,
            &mut LoopContext<'_>,
        ) -> Result<HeldProgress, CloseReason>,
    ) {
        let progress = self.step(id, registry, |client, context| match client {
            Client::Held(client) => advance(client, context),
            Client::Open(_) => Ok(HeldProgress::Waiting),
        });
        if let Some(HeldProgress::Completed(socket)) = progress
            && let Some(held) = &mut self.held
        {
            held.completed_count += 1;
            self.accept_from(socket, Some(id), registry);
            if self.is_held(id) {
                let kind = TimerKind::Accept;
                registry.start_timer(ConnectionTimer { kind, id });
                self.listen(registry);
            }
        }
    }

    /// Accepts clients until this one was accepted, or until none waits.
    fn accept_from(
        &mut self,
        socket: usize,
        until: Option<ConnectionId>,
        registry: &mut ConnectionRegistry,
    ) {
        loop {
            match self.source.accept(socket) {
                Ok(Some((client, upstream))) => self.accepted(client, upstream, registry),
                Ok(None) => return,
                Err(_) => return self.pause_listening(registry),
            }
            if until.is_some_and(|id| !self.is_held(id)) {
                return;
            }
        }
    }

    /// Makes a connection of a client that was accepted, in the loop that holds it.
    fn accepted(
        &mut self,
        client: TcpStream,
        upstream: S::Upstream,
        registry: &mut ConnectionRegistry,
    ) {
        let Some(held) = &self.held else { return };
        let flow_id = upstream.flow_id();
        if let Some(&key) = held.keys.get(&flow_id) {
            return self.connect_to_client(key, client, upstream, registry);
        }
        match held.loops.holder(flow_id) {
            Some(other) if other != held.index => {
                let handover = Handover::Accepted(client, upstream);
                held.loops.hand_over(other, handover);
            }
            // It has ended here, and its client came all the same.
            _ => self.begin(client, upstream, registry),
        }
    }

    fn connect_to_client(
        &mut self,
        key: usize,
        client: TcpStream,
        upstream: S::Upstream,
        registry: &mut ConnectionRegistry,
    ) {
        let Some(held) = &mut self.held else { return };
        let Some(tracked) = self.table.get_mut(key).filter(|tracked| !tracked.has_ended) else {
            return; // the client is reset, as it has ended in this round
        };
        let (id, flow_id) = (tracked.id(key), upstream.flow_id());
        match &mut tracked.client {
            Client::Held(waiting) if waiting.is_completed() => {
                tracked.client = Client::Open(waiting.accepted(client, upstream));
            }
            _ => return, // the kernel accepts no client that was not let through
        }
        held.keys.remove(&flow_id);
        held.loops.release(flow_id);
        held.completed_count -= 1;
        self.stop_listening_if_done(registry);
        self.advance(id, registry, Connection::begin);
    }

    /// Ends a held client that is gone.
    fn client_gone(&mut self, flow_id: u64) {
        let key = self.held.as_ref().and_then(|held| held.keys.get(&flow_id));
        if let Some(&key) = key {
            self.end(key, CloseReason::ClientGaveUp);
        }
    }

    /// Ends a client that was let through, but has not arrived.
    pub(super) fn accept_timed_out(&mut self, id: ConnectionId) {
        if self.is_held(id) {
            self.end(id.key, CloseReason::NotAccepted);
        }
    }

    /// Writes the line of a held client that has ended, and refuses it.
    pub(super) fn close_held(&mut self, client: HeldClient<S::Pending>, reason: CloseReason) {
        if let Some(held) = &mut self.held {
            held.keys.remove(&client.flow_id());
            held.loops.release(client.flow_id());
            held.waiting_count -= usize::from(client.is_waiting());
            held.completed_count -= usize::from(client.is_completed());
        }
        let mut ended = client.end(reason, &self.settings.rules);
        if let Some((upstream, outcome)) = ended.line.take() {
            (self.on_end)(upstream, outcome);
        }
        ended.close();
    }

    fn is_held(&self, id: ConnectionId) -> bool {
        let tracked = self.table.get(id.key).filter(|one| one.is_open(id));
        tracked.is_some_and(|one| matches!(one.client, Client::Held(_)))
    }

    /// Accepts what waits at a listening socket, which may be the clients of other loops.
    pub(super) fn listening_socket_ready(
        &mut self,
        socket: usize,
        registry: &mut ConnectionRegistry,
    ) {
        self.accept_from(socket, None, registry);
        self.stop_listening_if_done(registry);
    }

    /// Waits for the listening sockets, as a client did not arrive at once.
    fn listen(&mut self, registry: &mut ConnectionRegistry) {
        let Some(held) = &mut self.held else { return };
        if held.listening != Listening::No || held.completed_count == 0 {
            return;
        }
        held.listening = Listening::Yes;
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        for (index, socket) in self.source.sockets().enumerate() {
            let watched = registry.watch(socket, LoopSocket::Listening(index), flags);
            if watched.is_err() {
                return self.pause_listening(registry);
            }
        }
    }

    /// Does not wait for the listening sockets for a while, as accepting has failed.
    fn pause_listening(&mut self, registry: &mut ConnectionRegistry) {
        let Some(held) = &mut self.held else { return };
        let before = std::mem::replace(&mut held.listening, Listening::Paused);
        if before == Listening::Yes {
            self.unwatch_sockets(registry);
        }
        if before != Listening::Paused {
            let (kind, id) = (TimerKind::Listening, ConnectionId::NONE);
            registry.start_timer(ConnectionTimer { kind, id });
        }
    }

    /// The pause is over.
    pub(super) fn resume_listening(&mut self, registry: &mut ConnectionRegistry) {
        if let Some(held) = &mut self.held {
            held.listening = Listening::No;
        }
        self.listen(registry);
    }

    fn stop_listening_if_done(&mut self, registry: &mut ConnectionRegistry) {
        let Some(held) = &mut self.held else { return };
        if held.listening == Listening::Yes && held.completed_count == 0 {
            held.listening = Listening::No;
            self.unwatch_sockets(registry);
        }
    }

    fn unwatch_sockets(&self, registry: &ConnectionRegistry) {
        let sockets = self.source.sockets();
        sockets.for_each(|socket| registry.unwatch(socket));
    }
}

#[cfg(test)]
mod tests;
