//! The file of a store: how it is created and opened.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageError};

use super::{Error, META};

/// The permissions of the file: it shows which programs are restricted, and how.
const MODE: u32 = 0o600;
/// The bits of a mode that let other users read or change the file.
const OTHERS: u32 = 0o077;
/// Number of bytes of redb's header. A database's contents come after it.
const HEADER_SIZE: usize = 320;
/// Number of bytes by which redb recognises its files. They are written last.
const MAGIC_SIZE: usize = 9;
/// Number of bytes of a database that was just created.
const CREATED_SIZE: u64 = 73_728;

/// Makes sure that a store's file exists, and is not one that was never written.
///
/// Errors: [`Error::Open`], [`Error::Create`].
pub(super) fn prepare(path: &Path, warnings: &mut Vec<String>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Open {
        path: path.to_owned(),
        source: source.into(),
    };
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return create(path),
        Err(error) => return Err(failed(error)),
        Ok(file) if is_unwritten(&file).map_err(failed)? => {
            fs::remove_file(path).map_err(failed)?;
            create(path)?;
            warnings.push(format!(
                "the store {} was made anew: a daemon had ended while it created the file, which had no \
                 contents",
                path.display()
            ));
        }
        // It is a second name of the store, if a daemon ended before it had removed that.
        Ok(_) => remove_if_present(&unfinished(path)).map_err(failed)?,
    }
    Ok(())
}

/// Makes sure that only its owner can read a store's file. Call it once the file is known to be a store.
///
/// Errors: [`Error::Open`].
pub(super) fn restrict(path: &Path, warnings: &mut Vec<String>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Open {
        path: path.to_owned(),
        source: source.into(),
    };
    let mode = fs::metadata(path).map_err(failed)?.mode();
    if mode & OTHERS != 0 {
        let permissions = Permissions::from_mode(mode & !OTHERS & 0o7777);
        fs::set_permissions(path, permissions).map_err(failed)?;
        warnings.push(format!(
            "other users had permissions on the store {}, which were removed; its mode was {:03o}",
            path.display(),
            mode & 0o777
        ));
    }
    Ok(())
}

/// Opens a store's file, and compares all of it with its checksums.
///
/// Errors: [`Error::Open`], [`Error::Damaged`].
pub(super) fn open(path: &Path) -> Result<Database, Error> {
    let opened = Builder::new().set_check_integrity_on_open(true).open(path);
    opened.map_err(|source| {
        let path = path.to_owned();
        match &source {
            DatabaseError::Storage(StorageError::Corrupted(_))
            | DatabaseError::UpgradeRequired(_) => Error::Damaged { path, source },
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() == ErrorKind::InvalidData =>
            {
                Error::Damaged { path, source }
            }
            _ => Error::Open { path, source },
        }
    })
}

/// Creates a store without objects. It gets its name once it is a database and on the disk, so a
/// crash at any moment leaves no file, or a whole one.
fn create(path: &Path) -> Result<(), Error> {
    let unfinished = unfinished(path);
    let failed = |source: redb::Error| Error::Create {
        path: path.to_owned(),
        source,
    };
    let io = |error: io::Error| failed(redb::Error::Io(error));
    // Left by a daemon that ended while it created the store.
    remove_if_present(&unfinished).map_err(io)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&unfinished)
        .map_err(io)?;
    write_empty(file.try_clone().map_err(io)?).map_err(failed)?;
    file.sync_all().map_err(io)?;
    match fs::hard_link(&unfinished, path) {
        // Another daemon was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        linked => linked.map_err(io)?,
    }
    remove_if_present(&unfinished).map_err(io)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io)
}

/// Makes a file a database without objects.
fn write_empty(file: File) -> Result<(), redb::Error> {
    let database = Builder::new().create_with_backend(FileBackend::new(file)?)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(database.close()?)
}

/// Returns the path that a store's file has until it is complete.
fn unfinished(path: &Path) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(".unfinished");
    name.into()
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether a file is what a daemon of an earlier version left that ended while it created its
/// store: the file is empty, or it has a new database's size, no contents, and no magic number.
/// redb has written contents only to files that have the magic number.
fn is_unwritten(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > CREATED_SIZE {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.take(CREATED_SIZE).read_to_end(&mut bytes)?;
    let header = bytes.len().min(HEADER_SIZE);
    let magic = bytes.len().min(MAGIC_SIZE);
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    Ok(is_zero(&bytes[..magic]) && is_zero(&bytes[header..]))
}
