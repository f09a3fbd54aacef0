//! The settings of a [`Server`](crate::Server).

use std::time::Duration;

use crate::dns::Denial;
use crate::rules::Rules;

/// Default of [`Settings::idle_timeout`].
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Default of [`Settings::connect_timeout`].
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of [`Settings::datagram_idle`], as on Windows (docs/wfp.md, 2.4.4).
pub const DATAGRAM_IDLE: Duration = Duration::from_secs(60);

/// How the proxy treats connections and datagrams.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Which connections, flows and DNS names are allowed.
    pub rules: Rules,
    /// A connection on which no byte passes for this long is closed.
    pub idle_timeout: Duration,
    /// The connect to an origin fails if it takes this long, for a client that was accepted before.
    pub connect_timeout: Duration,
    /// A UDP flow without a datagram for this long ends.
    pub datagram_idle: Duration,
    /// How the proxy answers a DNS query for a denied name.
    pub denial: Denial,
    /// Whether QUIC is allowed.
    pub quic: Quic,
}

impl Default for Settings {
    /// No rules, [`IDLE_TIMEOUT`], [`CONNECT_TIMEOUT`], [`DATAGRAM_IDLE`], [`Denial::NoSuchName`],
    /// [`Quic::Allow`].
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            idle_timeout: IDLE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            datagram_idle: DATAGRAM_IDLE,
            denial: Denial::NoSuchName,
            quic: Quic::Allow,
        }
    }
}

/// Whether QUIC is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quic {
    /// QUIC is relayed, if the rules allow the flow.
    #[default]
    Allow,
    /// Flows that begin with QUIC are denied.
    Refuse,
}
