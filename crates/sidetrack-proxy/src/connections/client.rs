//! The clients in the table of an event loop.

use super::source::ConnectionSource;
use crate::connection::{Connection, ConnectionId, HeldClient};

/// A client in the loop's table.
pub(super) struct Tracked<S: ConnectionSource> {
    pub(super) client: Client<S>,
    /// Distinguishes it from other connections that had the same key before, see `ConnectionId`.
    pub(super) serial: u64,
    /// Whether it has ended. It is closed only after all events of the round are handled, as some
    /// of them may be its own.
    pub(super) has_ended: bool,
}

/// A client, before and after it was accepted.
#[expect(
    clippy::large_enum_variant,
    reason = "with the SDK's types, both are of about the same size"
)]
pub(super) enum Client<S: ConnectionSource> {
    Open(Connection<S::Upstream>),
    Held(HeldClient<S::Pending>),
}

impl<S: ConnectionSource> Tracked<S> {
    /// The id of this client, which has this key.
    pub(super) fn id(&self, key: usize) -> ConnectionId {
        let serial = self.serial;
        ConnectionId { key, serial }
    }

    /// Whether it is the client with this id, and has not ended.
    pub(super) fn is_open(&self, id: ConnectionId) -> bool {
        self.serial == id.serial && !self.has_ended
    }
}
