//! What an event loop gives to a connection while it advances it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData};

use crate::close_reason::{CloseReason, RelaySide};
use crate::connection::{REFUSAL_WAIT, SNIFF_WAIT};
use crate::relay::{Peer, Pipes};
use crate::rules::Rules;

/// A timer that a connection can start. Each kind has a fixed duration, so timers of one kind
/// expire in the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// For the client's first bytes: [`SNIFF_WAIT`].
    Sniff,
    /// For a denied client to read the refusal and close: [`REFUSAL_WAIT`].
    Refusal,
}

impl Timer {
    /// Each kind with its duration, in the order of the loop's queues.
    pub(super) const ALL: [(Self, Duration); 2] =
        [(Self::Sniff, SNIFF_WAIT), (Self::Refusal, REFUSAL_WAIT)];
}

/// What a connection needs of its event loop to advance.
pub(crate) struct LoopContext<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) copy_buffer: &'a mut [u8],
    pub(crate) pipes: &'a mut Pipes,
    pub(super) epoll: &'a OwnedFd,
    pub(super) timers: &'a mut [VecDeque<(Instant, ConnectionId)>; 2],
    pub(super) id: ConnectionId,
}

impl LoopContext<'_> {
    /// Adds `peer` to epoll: from now on its events advance this connection.
    pub(crate) fn watch(&self, peer: &Peer, side: RelaySide) -> Result<(), CloseReason> {
        let token = self.id.token(side);
        let added = epoll::add(self.epoll, peer, EventData::new_u64(token), Peer::EVENTS);
        added.map_err(|error| CloseReason::from_io(side, &error.into()))
    }

    /// Starts a timer. When it expires, `Connection::timer_expired` is called, if the connection is
    /// still open.
    pub(crate) fn start_timer(&mut self, timer: Timer) {
        let (_, time) = Timer::ALL[timer as usize];
        self.timers[timer as usize].push_back((Instant::now() + time, self.id));
    }
}

/// Identifies a connection within its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId {
    /// The key in the loop's table. Keys are reused.
    pub(super) key: usize,
    /// Distinguishes it from other connections that had the same key before.
    pub(super) serial: u64,
}

impl ConnectionId {
    /// The epoll event data of the connection's socket on this side: even for the client, odd for
    /// the origin.
    fn token(self, side: RelaySide) -> u64 {
        self.key as u64 * 2 + u64::from(side == RelaySide::Origin)
    }
}
