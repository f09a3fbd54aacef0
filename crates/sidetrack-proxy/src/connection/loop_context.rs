//! What an event loop gives to a connection while it advances it.

use super::id::{ConnectionId, LoopSocket};
use super::timer::{ConnectionTimer, TimerKind};
use crate::close_reason::{CloseReason, RelaySide};
use crate::reactor::Registry;
use crate::relay::{Peer, Pipes};
use crate::rules::Rules;

/// What a connection needs of its event loop to advance.
pub(crate) struct LoopContext<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) copy_buffer: &'a mut [u8],
    pub(crate) pipes: &'a mut Pipes,
    pub(crate) registry: &'a mut ConnectionRegistry,
    pub(crate) id: ConnectionId,
}

/// The sockets and timers of connections.
pub(crate) type ConnectionRegistry = Registry<LoopSocket, ConnectionTimer>;

impl LoopContext<'_> {
    /// Adds `peer` to the registry: from now on its events advance this connection.
    pub(super) fn watch(&self, peer: &Peer, side: RelaySide) -> Result<(), CloseReason> {
        let socket = LoopSocket::Connection(self.id.key, side);
        let added = self.registry.watch(peer, socket, Peer::EVENTS);
        added.map_err(|error| CloseReason::from_io(side, &error.into()))
    }

    /// Starts a timer. When it expires, `Connection::timer_expired` is called, if the connection is
    /// still open.
    pub(super) fn start_timer(&mut self, kind: TimerKind) {
        let id = self.id;
        self.registry.start_timer(ConnectionTimer { kind, id });
    }
}
