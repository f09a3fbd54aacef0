//! Why the store cannot be read or written.

use std::path::PathBuf;

use sidetrack_policy::set::ObjectKind;
use sidetrack_policy::{self as policy, Uuid};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened, or another process has opened it.
    #[error("cannot open {}", .path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// The database's reason.
        source: redb::DatabaseError,
    },
    /// The file does not exist, and cannot be created.
    #[error("cannot create {}", .path.display())]
    Create {
        /// Path of the file.
        path: PathBuf,
        /// The database's reason.
        source: redb::Error,
    },
    /// The file has changed since it was written, for example by a fault of the disk.
    #[error(
        "the store {} is damaged; restore the file from a backup, or delete it and start sidetrackd with \
         --adopt-kernel or --start-empty",
        .path.display()
    )]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// What the database found.
        source: redb::DatabaseError,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// Another process has put another file in the place of the open one.
    #[error("{} is not the file that sidetrackd had opened; restart sidetrackd", .path.display())]
    Replaced {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file has a record that is not an object, or whose object cannot be among those that were
    /// loaded before it.
    #[error(
        "the {} with the key {key} cannot be read; restore the store's file from a backup, or delete it \
         and start sidetrackd with --adopt-kernel or --start-empty",
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

impl Error {
    /// The database was closed after an error.
    pub(super) fn closed() -> Self {
        Self::Database(redb::Error::DatabaseClosed)
    }
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
