//! What became of a connection or a UDP flow.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::close_reason::CloseReason;
use crate::rules::{Decision, Verdict};
use crate::seen::{Seen, is_zero};

/// The result of a finished connection or UDP flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the client began with.
    pub seen: Seen,
    /// The verdict of the rules. If the connection ended before they decided, the verdict on what
    /// was seen until then.
    pub verdict: Verdict,
    /// How the client's connect was answered; `None` for a UDP flow.
    pub connect: Option<ConnectMode>,
    /// How long it took to connect to the origin; `None` if that was not tried or failed.
    pub connect_time: Option<Duration>,
    /// The byte counts, and why it ended.
    pub relayed: Relayed,
}

/// When the client's connect succeeds or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectMode {
    /// When the proxy's connect to the origin does, with the same error.
    Pended,
    /// It succeeds before the proxy connects to the origin.
    Accepted,
}

/// Whether a connection or UDP flow went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    /// The rules allow it, and the proxy connected to the origin.
    Allow,
    /// A rule denied it.
    Deny,
    /// No rule denied it, but client and origin were not connected: the proxy's connect failed, or
    /// the client had gone before.
    Failed,
}

impl Outcome {
    /// Whether the connection or UDP flow went through.
    pub fn flow_verdict(&self) -> FlowVerdict {
        let is_gone = matches!(
            self.relayed.reason,
            CloseReason::ClientGaveUp | CloseReason::NotAccepted
        );
        match self.verdict.decision {
            Decision::Deny => FlowVerdict::Deny,
            Decision::Allow if self.connect_time.is_some() && !is_gone => FlowVerdict::Allow,
            Decision::Allow => FlowVerdict::Failed,
        }
    }
}

/// What was relayed, and why that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Number of bytes that the socket to the origin has taken.
    pub bytes_up: u64,
    /// Number of bytes that the socket to the client has taken.
    pub bytes_down: u64,
    /// Why the relay ended.
    pub reason: CloseReason,
}

/// Counts of the datagrams of a UDP flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Datagrams {
    /// Number of datagrams relayed from the client to the origin.
    pub up: u64,
    /// Number of datagrams relayed from the origin to the client.
    pub down: u64,
    /// Number of datagrams from the client that the proxy dropped: because of a rule, or because
    /// they could not be read while a rule needs a name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: u64,
    /// Number of datagrams lost in the proxy, in both directions: a socket's buffer was full, the
    /// kernel refused to send them, or the flow ended before a QUIC ClientHello was complete.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}
