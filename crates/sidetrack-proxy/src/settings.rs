//! How connections and datagrams are treated.

use std::time::Duration;

use crate::datagrams::{DATAGRAM_IDLE, Quic};
use crate::dns::Denial;
use crate::rules::Rules;

/// The idle time-out unless told otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How connections are treated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Which may go on.
    pub rules: Rules,
    /// A connection over which no byte goes for so long is ended.
    pub idle_timeout: Duration,
    /// A flow of datagrams that is silent for so long is ended.
    pub datagram_idle: Duration,
    /// How a DNS query for a denied name is answered.
    pub denial: Denial,
    /// What QUIC may do.
    pub quic: Quic,
}

impl Default for Settings {
    /// No rules, [`IDLE_TIMEOUT`], [`DATAGRAM_IDLE`].
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            idle_timeout: IDLE_TIMEOUT,
            datagram_idle: DATAGRAM_IDLE,
            denial: Denial::NoSuchName,
            quic: Quic::Allow,
        }
    }
}
