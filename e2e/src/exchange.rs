//! What the client's action `load` writes about each exchange with an origin.

use std::io;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A question to an origin, and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination. No other exchange has the same one.
    pub to: SocketAddr,
    /// When it began, in milliseconds since 1970.
    pub began: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended: u64,
    /// Why the client got no answer; `None` if it got the whole one.
    pub failure: Option<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection, which both sides close.
    Tcp,
    /// One datagram, and one datagram as its answer.
    Udp,
}

impl Exchange {
    /// An exchange that begins now.
    pub fn begin(protocol: Protocol, to: SocketAddr) -> Self {
        let now = now();
        Self {
            protocol,
            to,
            began: now,
            ended: now,
            failure: None,
        }
    }

    /// Ends it now, with this result.
    pub fn end(&mut self, result: io::Result<()>) {
        self.ended = now();
        self.failure = result.err().map(|error| error.to_string());
    }

    /// Returns whether the client got the whole answer.
    pub fn was_served(&self) -> bool {
        self.failure.is_none()
    }
}

/// The time in milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("the clock is set").as_millis()).expect("not in this era")
}
