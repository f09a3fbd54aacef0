//! How an event loop identifies connections, their sockets, and the other sockets that it waits for.

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

impl ConnectionId {
    /// The id of no connection.
    pub(crate) const NONE: Self = Self { key: 0, serial: 0 };
}

/// Identifies a socket within its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoopSocket {
    /// A socket of the connection with this key, see [`ConnectionId`].
    Connection(usize, RelaySide),
    /// The ring buffer of notices.
    Notices,
    /// What other loops have handed over.
    Handovers,
    /// The listening socket with this index, on which held clients are accepted.
    Listening(usize),
}

/// The largest numbers stand for what no connection owns.
const NOTICES: u64 = (1 << 63) - 1;
const HANDOVERS: u64 = NOTICES - 1;
const LISTENING: u64 = HANDOVERS - 16;

impl SocketId for LoopSocket {
    /// Of a connection's sockets, even for the client's, odd for the origin's.
    fn number(self) -> u64 {
        match self {
            Self::Connection(key, side) => key as u64 * 2 + u64::from(side == RelaySide::Origin),
            Self::Notices => NOTICES,
            Self::Handovers => HANDOVERS,
            Self::Listening(socket) => LISTENING + socket as u64,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            NOTICES => Self::Notices,
            HANDOVERS => Self::Handovers,
            LISTENING.. => Self::Listening((number - LISTENING) as usize),
            _ => Self::Connection(
                (number / 2) as usize,
                match number % 2 {
                    0 => RelaySide::Client,
                    _ => RelaySide::Origin,
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_number() {
        for socket in [
            LoopSocket::Connection(0, RelaySide::Client),
            LoopSocket::Connection(16_383, RelaySide::Origin),
            LoopSocket::Notices,
            LoopSocket::Handovers,
            LoopSocket::Listening(0),
            LoopSocket::Listening(15),
        ] {
            assert_eq!(LoopSocket::from_number(socket.number()), socket);
        }
    }
}
