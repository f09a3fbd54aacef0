//! How an event loop identifies connections and their sockets.

use crate::close_reason::RelaySide;
use crate::reactor::SocketId;

/// Identifies a connection within its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionId {
    /// The key in the loop's table. Keys are reused.
    pub(crate) key: usize,
    /// Distinguishes it from other connections that had the same key before.
    pub(crate) serial: u64,
}

/// Identifies a socket of a connection within its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionSocket {
    /// The connection's key, see [`ConnectionId`].
    pub(crate) key: usize,
    pub(crate) side: RelaySide,
}

impl SocketId for ConnectionSocket {
    /// Even for the client's socket, odd for the origin's.
    fn number(self) -> u64 {
        self.key as u64 * 2 + u64::from(self.side == RelaySide::Origin)
    }

    fn from_number(number: u64) -> Self {
        Self {
            key: (number / 2) as usize,
            side: match number % 2 {
                0 => RelaySide::Client,
                _ => RelaySide::Origin,
            },
        }
    }
}
