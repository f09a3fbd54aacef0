//! Why a connection or a UDP flow ended.

use std::{fmt, io};

use rustix::io::Errno;

const EINVAL: i32 = Errno::INVAL.raw_os_error();
const ELOOP: i32 = Errno::LOOP.raw_os_error();
/// How the text of [`CloseReason::ConnectFailed`] begins.
pub(crate) const CONNECT_FAILED: &str = "connect failed";
/// The text of [`CloseReason::ClientGaveUp`].
pub(crate) const CLIENT_GAVE_UP: &str = "client gave up";
/// The text for EINVAL, for example of a blackhole route. The kind's text speaks of an input.
const INVALID_ARGUMENT: &str = "invalid argument";
/// The text for ELOOP. A connect to the proxy's own listener has another error, from the SDK.
const CHAIN_TOO_LONG: &str = "16 services have seen the connection already";

/// Why a connection or a UDP flow ended. `Display` prints the flow line's `ended`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Client and origin both closed their direction: "closed".
    Closed,
    /// Client or origin reset the connection: "reset by client".
    Reset(RelaySide),
    /// The connection to the client or the origin failed otherwise: "origin failed: timed out".
    Failed(RelaySide, io::ErrorKind),
    /// Nothing passed in either direction for the idle time-out: "idle".
    Idle,
    /// A rule denied it: "denied".
    Denied,
    /// The proxy could not connect to the origin: "connect failed: connection refused".
    ConnectFailed(String),
    /// The client closed or timed out while its connect was held: "client gave up".
    ClientGaveUp,
    /// The client's connect was held and let through, but its connection did not arrive: "client
    /// not accepted".
    NotAccepted,
    /// The proxy was stopped: "stopped".
    Stopped,
    /// UDP only: all DNS queries of the flow were answered: "answered".
    Answered,
    /// UDP only: the origin's host reported that no process listens on the port: "refused by origin".
    Refused,
    /// UDP only: a new flow needed room, and this one was among those that had been silent longest:
    /// "made room".
    MadeRoom,
}

/// One of the two connections of a relay, by its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySide {
    /// The connection from the redirected program.
    Client,
    /// The connection to the server that the program asked for.
    Origin,
}

impl CloseReason {
    /// The reason for an I/O error on the connection to `side`.
    pub(crate) fn from_io(side: RelaySide, error: &io::Error) -> Self {
        match error.kind() {
            // Which of these errors the kernel returns for a reset socket depends on the system call.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => Self::Reset(side),
            kind => Self::Failed(side, kind),
        }
    }

    /// The reason for a failed connect. Its text is the error's kind without the error number, such
    /// as "connection refused"; the system's whole text, if the kind says nothing. ELOOP is
    /// Sidetrack's own refusal (docs/proxies.md, Errors), whose kind is about files.
    pub(crate) fn from_connect(error: &sidetrack::Error) -> Self {
        Self::ConnectFailed(match error {
            sidetrack::Error::System { source, .. } => match source.raw_os_error() {
                Some(ELOOP) => CHAIN_TOO_LONG.to_owned(),
                Some(EINVAL) => INVALID_ARGUMENT.to_owned(),
                _ if is_unclassified(source.kind()) => source.to_string(),
                _ => source.kind().to_string(),
            },
            other => other.to_string(),
        })
    }
}

/// Whether the standard library does not know the error, so that the kind's text says nothing about
/// it.
fn is_unclassified(kind: io::ErrorKind) -> bool {
    // The kind of unknown error numbers has no name that stable Rust can use; no error has the
    // number 0.
    let unknown = io::Error::from_raw_os_error(0).kind();
    kind == io::ErrorKind::Other || kind == unknown
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Reset(side) => write!(f, "reset by {side}"),
            Self::Failed(side, kind) => write!(f, "{side} failed: {kind}"),
            Self::Idle => f.write_str("idle"),
            Self::Denied => f.write_str("denied"),
            Self::ConnectFailed(why) => write!(f, "{CONNECT_FAILED}: {why}"),
            Self::ClientGaveUp => f.write_str(CLIENT_GAVE_UP),
            Self::NotAccepted => f.write_str("client not accepted"),
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
    fn reasons_display_as_the_flow_line_shows_them() {
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
        assert_eq!(connect(22), "connect failed: invalid argument");
        assert_eq!(
            connect(40),
            "connect failed: 16 services have seen the connection already"
        );
        assert_eq!(connect(112), "connect failed: Host is down (os error 112)");
        let (what, source) = ("connect to the destination", io::Error::other("no luck"));
        let reason = CloseReason::from_connect(&sidetrack::Error::System { what, source });
        assert_eq!(reason.to_string(), "connect failed: no luck");
    }
}
