//! Why the daemon refuses a call, or cannot start.

use std::io;
use std::path::PathBuf;

use sidetrack_policy as policy;

use crate::access::{Denied, UnknownGroup};
use crate::data_path::PinnedPolicy;
use crate::quota::QuotaExceeded;
use crate::{data_path, store};

/// An error of the daemon. Each variant names the part that is at fault.
///
/// Its text leaves out the errors that caused it, as [`std::error::Error::source`] returns them;
/// [`Self::with_sources`] has all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule about policy forbids the call; the error has WFP's code. Nothing was changed.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The caller has no permission for the call. Nothing was changed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The caller can have no more of a quota. Nothing was changed.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// The policy that is pinned in the kernel is not the store's, and the daemon does not know which of
    /// the two it should use.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The policy in force was adopted from the kernel, so its objects are unknown. Nothing was changed.
    #[error(
        "the policy in force was adopted from the kernel, and its {} filters are not in the store; the call \
         would drop them, or needs them: only `sidetrack apply` by root replaces them all",
        .0.filters
    )]
    Adopted(PinnedPolicy),
    /// The data path failed, or the call needs the kernel side and the daemon runs detached.
    #[error("the data path failed")]
    DataPath(#[source] data_path::Error),
    /// The committer's thread cannot be started.
    #[error("cannot start the committer")]
    Committer(#[source] io::Error),
    /// The configuration names a group that does not exist.
    #[error(transparent)]
    UnknownGroup(#[from] UnknownGroup),
    /// The API's descriptor is not valid.
    #[error("cannot serve the API's description")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The threads that serve the API cannot be started.
    #[error("cannot start the threads that serve the API")]
    Runtime(#[source] io::Error),
    /// The daemon is stopping.
    #[error("sidetrackd is stopping")]
    Stopping,
}

/// How the policy that is pinned in the kernel differs from the store's.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// The store has no objects, and the pinned policy has filters: the store was lost.
    #[error(
        "the store {} is empty, but {} filters are in force in the kernel; restore the store, or start \
         sidetrackd once with --adopt-kernel (they stay in force until `sidetrack apply` replaces them) or \
         with --start-empty (they are removed)",
        .store.display(), .pinned.filters
    )]
    Empty {
        /// Path of the store's file.
        store: PathBuf,
        /// The pinned policy.
        pinned: PinnedPolicy,
    },
    /// The store has objects, but the pinned policy comes from another store, or from a later commit.
    #[error(
        "the store {} is {}, and {} filters are in force in the kernel; restore the store, or start \
         sidetrackd once with --start-stored (the stored policy replaces them)",
        .store.display(),
        if *.is_older { "older than the policy in force" } else { "not the one that the policy in force comes from" },
        .pinned.filters
    )]
    Other {
        /// Path of the store's file.
        store: PathBuf,
        /// The pinned policy.
        pinned: PinnedPolicy,
        /// Whether it is the same store, but an older copy of it.
        is_older: bool,
    },
}

impl Error {
    /// Returns the text of the error and of the errors that caused it, separated by colons.
    pub fn with_sources(&self) -> String {
        with_sources(self)
    }
}

/// Returns the text of an error and of the errors that caused it, separated by colons.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

impl From<data_path::Error> for Error {
    /// A policy that the data path refuses is the caller's fault, and not the data path's.
    fn from(error: data_path::Error) -> Self {
        match error {
            data_path::Error::Policy(refusal) => Self::Policy(refusal),
            other => Self::DataPath(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_with_sources_names_each_once() {
        let path = std::path::Path::new("/nowhere/policy.redb");
        let error = Error::from(store::Store::open(path).unwrap_err());
        let text = error.with_sources();
        assert!(
            text.starts_with("the store failed: cannot create /nowhere/policy.redb: "),
            "{text}"
        );
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
        let refusal = policy::Error::new(policy::Code::NotFound, "there is no flow 9");
        let error = Error::from(data_path::Error::from(refusal.clone()));
        assert!(matches!(&error, Error::Policy(same) if *same == refusal));
        assert_eq!(error.with_sources(), refusal.to_string());
    }
}
