//! Why the daemon refuses a call, or cannot start.

use sidetrack_policy as policy;
use tonic::Status;

/// An error of the daemon. Each variant names the part that is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule about policy forbids the call; the error has WFP's code. Nothing was changed.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The caller has no permission for the call. Nothing was changed.
    #[error("{0}")]
    Denied(String),
    /// A limit of the daemon is reached. Nothing was changed.
    #[error("{0}")]
    Exhausted(String),
    /// The store failed: its file cannot be opened, read or written.
    #[error("the store failed: {0}")]
    Store(String),
    /// The data path failed: the kernel refused an operation or is in an unexpected state, or the
    /// call needs the kernel side and the daemon runs detached.
    #[error("the data path failed: {0}")]
    DataPath(String),
    /// The daemon is stopping.
    #[error("sidetrackd is stopping")]
    Stopping,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Policy(refusal) => sidetrack_api::status(refusal),
            Error::Denied(_) => Self::permission_denied(error.to_string()),
            Error::Exhausted(_) => Self::resource_exhausted(error.to_string()),
            Error::Store(_) | Error::DataPath(_) => Self::internal(error.to_string()),
            Error::Stopping => Self::unavailable(error.to_string()),
        }
    }
}
