//! What a client may set when it opens a session.

use std::time::Duration;

use sidetrack_policy::object::{DESCRIPTION_SIZE_MAX, NAME_SIZE_MAX};
use sidetrack_policy::{Code, Error};

use crate::transaction::{WAIT_DEFAULT, WAIT_MAX};

/// What a client sets when it opens a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// The session's name, which `sidetrack state` shows; may be empty.
    pub name: String,
    /// A description, which is only checked.
    pub description: String,
    /// Whether the session's objects are deleted when it ends.
    pub dynamic: bool,
    /// How long its calls wait for the write lock; none for [`WAIT_DEFAULT`].
    pub wait: Option<Duration>,
    /// Id of the session to resume; none for a new one.
    pub resume: Option<u64>,
}

impl SessionOptions {
    /// Checks the options, and returns how long the session's calls wait for the write lock.
    ///
    /// Errors: FWP_E_OUT_OF_BOUNDS, FWP_E_INVALID_PARAMETER.
    pub(super) fn checked_wait(&self) -> Result<Duration, Error> {
        let limit = |what: &str, size: usize, max: usize| {
            let text =
                format!("a session's {what} may have at most {max} bytes; this one has {size}");
            (size > max).then(|| Error::new(Code::OutOfBounds, text))
        };
        let long = limit("name", self.name.len(), NAME_SIZE_MAX)
            .or_else(|| limit("description", self.description.len(), DESCRIPTION_SIZE_MAX));
        if let Some(refusal) = long {
            return Err(refusal);
        }
        if self.resume.is_some() && !self.dynamic {
            let text = "only dynamic sessions can be resumed; set dynamic";
            return Err(Error::new(Code::InvalidParameter, text));
        }
        let wait = self.wait.unwrap_or(WAIT_DEFAULT);
        if wait > WAIT_MAX {
            let text = format!(
                "txn_wait_timeout_ms must be at most {}; it is {}",
                WAIT_MAX.as_millis(),
                wait.as_millis()
            );
            return Err(Error::new(Code::OutOfBounds, text));
        }
        Ok(wait)
    }
}
