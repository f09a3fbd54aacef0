//! How a connection ended.

use std::{fmt, io};

/// How a connection ended; prints as the flow line's `ended`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both sides had sent all they wanted to: "closed".
    Closed,
    /// One side reset it: "reset by client".
    Reset(RelaySide),
    /// One side's connection failed otherwise: "origin failed: timed out".
    Failed(RelaySide, io::ErrorKind),
    /// No byte went either way for the idle time-out: "idle".
    Idle,
    /// A rule refused it: "denied".
    Denied,
    /// The origin could not be reached: "connect failed: connection refused".
    ConnectFailed(String),
    /// The proxy was stopped: "stopped".
    Stopped,
    /// Datagrams: all DNS queries were answered: "answered".
    Answered,
    /// Datagrams: nobody is there, says the origin's host: "refused by origin".
    Refused,
    /// Datagrams: it had been silent for longest when another flow needed its place: "made room".
    MadeRoom,
}

/// One of the proxy's two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySide {
    /// The program that was diverted.
    Client,
    /// Where it wanted to go.
    Origin,
}

impl CloseReason {
    /// Sorts an error on the connection to `side`.
    pub(crate) fn from_io(side: RelaySide, error: &io::Error) -> Self {
        match error.kind() {
            // What the kernel says of a socket that was reset depends on the call that meets it.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => Self::Reset(side),
            kind => Self::Failed(side, kind),
        }
    }

    /// The reason without its number, such as "connection refused".
    pub(crate) fn from_connect(error: &sidetrack::Error) -> Self {
        Self::ConnectFailed(match error {
            sidetrack::Error::System { source, .. } => match source.kind().to_string() {
                vague if vague.contains("other") || vague.contains("uncategorized") => {
                    source.to_string()
                }
                kind => kind,
            },
            other => other.to_string(),
        })
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Reset(side) => write!(f, "reset by {side}"),
            Self::Failed(side, kind) => write!(f, "{side} failed: {kind}"),
            Self::Idle => f.write_str("idle"),
            Self::Denied => f.write_str("denied"),
            Self::ConnectFailed(why) => write!(f, "connect failed: {why}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Answered => f.write_str("answered"),
            Self::Refused => f.write_str("refused by origin"),
            Self::MadeRoom => f.write_str("made room"),
        }
    }
}

impl fmt::Display for RelaySide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Origin => "origin",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let error = |number| io::Error::from_raw_os_error(number);
        let reason = CloseReason::from_io(RelaySide::Client, &error(104));
        assert_eq!(reason.to_string(), "reset by client");
        let reason = CloseReason::from_io(RelaySide::Origin, &error(110));
        assert_eq!(reason.to_string(), "origin failed: timed out");
        let connect = |number| {
            let (what, source) = ("connect to the destination", error(number));
            CloseReason::from_connect(&sidetrack::Error::System { what, source }).to_string()
        };
        assert_eq!(connect(111), "connect failed: connection refused");
        assert_eq!(connect(1), "connect failed: permission denied");
        assert_eq!(connect(112), "connect failed: Host is down (os error 112)");
    }
}
