//! What a loop lends to the connection whose turn it is.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData};

use crate::close_reason::{CloseReason, RelaySide};
use crate::connection::{REFUSAL_WAIT, SNIFF_WAIT};
use crate::relay::{Peer, Pipes};
use crate::rules::Rules;

/// What a connection waits for besides its sockets. Each kind takes the same time for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The client's first bytes: [`SNIFF_WAIT`].
    Sniff,
    /// A refused client's end: [`REFUSAL_WAIT`].
    Refusal,
}

impl Timer {
    pub(super) const ALL: [(Self, Duration); 2] =
        [(Self::Sniff, SNIFF_WAIT), (Self::Refusal, REFUSAL_WAIT)];
}

/// What a connection's turn needs of its loop.
pub(crate) struct LoopContext<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) copy_buffer: &'a mut [u8],
    pub(crate) pipes: &'a mut Pipes,
    pub(super) epoll: &'a OwnedFd,
    pub(super) timers: &'a mut [VecDeque<(Instant, ConnectionId)>; 2],
    pub(super) id: ConnectionId,
}

impl LoopContext<'_> {
    /// From now on `peer`'s events come to this connection.
    pub(crate) fn watch(&self, peer: &Peer, side: RelaySide) -> Result<(), CloseReason> {
        let token = self.id.token(side);
        let added = epoll::add(self.epoll, peer, EventData::new_u64(token), Peer::EVENTS);
        added.map_err(|error| CloseReason::from_io(side, &error.into()))
    }

    /// The connection is told when that time is over, if it still is there.
    pub(crate) fn start_timer(&mut self, timer: Timer) {
        let (_, time) = Timer::ALL[timer as usize];
        self.timers[timer as usize].push_back((Instant::now() + time, self.id));
    }
}

/// A connection's place in its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId {
    pub(super) key: usize,
    /// Tells it from others that had the key before.
    pub(super) serial: u64,
}

impl ConnectionId {
    fn token(self, side: RelaySide) -> u64 {
        self.key as u64 * 2 + u64::from(side == RelaySide::Origin)
    }
}
