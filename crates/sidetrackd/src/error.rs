//! Why a call is refused, or the daemon stops.

use sidetrack_policy as policy;
use tonic::Status;

/// By fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Policy's rules say no. Nothing was changed.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The caller may not. Nothing was changed.
    #[error("{0}")]
    Denied(String),
    /// A limit of the daemon's. Nothing was changed.
    #[error("{0}")]
    Exhausted(String),
    /// The store failed.
    #[error("the store: {0}")]
    Store(String),
    /// The data path failed: the kernel refused, or is not what it should be.
    #[error("the data path: {0}")]
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
