//! Why the store cannot be read or written.

use std::path::PathBuf;

use sidetrack_policy::set::ObjectKind;
use sidetrack_policy::{self as policy, Uuid};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or created, or another process has opened it.
    #[error("cannot open {}", .path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// The database's reason.
        source: redb::DatabaseError,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// The file has a record that is not an object, or whose object cannot be among those that were
    /// loaded before it.
    #[error(
        "the {} with the key {key} cannot be read; restore the store's file from a backup, or delete \
         the file and apply the policy again",
        .kind.name()
    )]
    Unreadable {
        /// The kind of the object.
        kind: ObjectKind,
        /// The key of the object.
        key: Uuid,
        /// What is wrong with the record.
        source: RecordError,
    },
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not an encoded record.
    #[error(transparent)]
    Encoding(#[from] prost::DecodeError),
    /// The object breaks a rule about policy.
    #[error(transparent)]
    Object(#[from] policy::Error),
}

macro_rules! from_redb {
    ($($type:ident)+) => {
        $(impl From<redb::$type> for Error {
            fn from(error: redb::$type) -> Self {
                Self::Database(error.into())
            }
        })+
    };
}

from_redb!(CommitError StorageError TableError TransactionError);
