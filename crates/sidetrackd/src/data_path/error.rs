//! Errors of the data path.

use sidetrack_abi::text::count;
use sidetrack_engine as engine;
use sidetrack_policy::{self as policy, Code};

/// An error of a data path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy, or what a caller gave, is at fault.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The kernel refused an operation, or is in an unexpected state.
    #[error(transparent)]
    Engine(engine::Error),
    /// The service was removed while a process registered for it.
    #[error("the service no longer exists")]
    ServiceGone,
    /// The daemon runs detached, so no process can register for a service.
    #[error("sidetrackd runs detached: no socket can listen for a service")]
    CannotRegisterDetached,
    /// The daemon runs detached, so no connection can be explained.
    #[error(
        "sidetrackd runs detached: it has {}, but classifies no connection",
        count(*services, "service")
    )]
    CannotExplainDetached {
        /// Number of services of the policy.
        services: usize,
    },
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Policy(refusal) => Self::Policy(refusal),
            full @ engine::Error::TooManyContexts => {
                policy::Error::new(Code::OutOfBounds, full.to_string()).into()
            }
            other => Self::Engine(other),
        }
    }
}
