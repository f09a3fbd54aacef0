//! The timers of connections.

use std::time::Duration;

use super::id::ConnectionId;
use crate::reactor::{LISTENER_PAUSE, Timer};

/// How long the proxy waits for a client's first bytes. If the client is silent for this long, the
/// proxy connects to the origin without them, since in some protocols the server speaks first.
pub const SNIFF_WAIT: Duration = Duration::from_millis(200);
/// How long a denied client has to read its refusal and close, before the connection is reset.
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// How long a held client that was let through has to arrive, before it is forgotten. Its kernel
/// answers at once, if no packet is lost; otherwise it sends its SYN again, or gives up, within 120
/// seconds. Before that, the client may still be accepted, so that its origin must be kept.
pub const ACCEPT_WAIT: Duration = Duration::from_secs(130);

/// A timer of a connection, or of its event loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimer {
    pub(crate) kind: TimerKind,
    pub(crate) id: ConnectionId,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerKind {
    /// For the client's first bytes: [`SNIFF_WAIT`].
    Sniff,
    /// For a denied client to read the refusal and close: [`REFUSAL_WAIT`].
    Refusal,
    /// For a held client that was let through to be accepted: [`ACCEPT_WAIT`].
    Accept,
    /// For the listening sockets, after accepting a held client has failed: [`LISTENER_PAUSE`].
    Listening,
}

impl Timer for ConnectionTimer {
    const DURATIONS: &'static [Duration] = &[SNIFF_WAIT, REFUSAL_WAIT, ACCEPT_WAIT, LISTENER_PAUSE];

    fn kind(&self) -> usize {
        self.kind as usize
    }
}
