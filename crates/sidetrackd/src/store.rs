//! The store: a redb file with the objects that outlive the daemon. Each commit is one transaction of the file.
//!
//! A record has the object as a message of the API, and the object's author. Static and dynamic
//! objects are stored too, but only until the host restarts: so a restarted daemon knows which
//! objects are in force in the kernel.
//!
//! The store has an id, and counts its commits. The kernel keeps both with the policy, so the next
//! daemon notices if the store that it finds is not the one that the policy in force comes from.

mod error;
mod file;
mod loading;
mod record;

use std::path::{Path, PathBuf};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use sidetrack_policy::compile::PolicySource;
use sidetrack_policy::set::ObjectEntry;
use sidetrack_policy::{Filter, Lifetime, Objects, Provider, Service, Sublayer, Uuid};

pub use self::error::{Error, RecordError};
pub use self::loading::Loaded;
use self::loading::Loading;
use self::record::Stored;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const STORE_ID: &str = "id";
const COMMIT: &str = "commit";
const BOOT_ID: &str = "boot";
const LAST_ID: &str = "last filter number";
const ADOPTED: &str = "adopted";

/// The table of the store's properties, opened for reading.
trait Meta: ReadableTable<&'static str, &'static [u8]> {}

impl<T: ReadableTable<&'static str, &'static [u8]>> Meta for T {}

/// The open file. Only one process at a time can open it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after an error: it may have left the database unusable, so the next access opens the
    /// file again.
    database: Option<Database>,
    /// The last commit that is known to be in the file.
    source: PolicySource,
    /// The objects of that commit that were loaded or written.
    stored: Objects,
    /// The objects of a later commit that failed. It may be in the file nevertheless.
    attempted: Option<Objects>,
    warnings: Vec<String>,
}

impl Store {
    /// Opens a file, or creates it. If the file was not closed, it is restored to its last commit.
    /// Reads the whole file, and compares all of it with its checksums.
    ///
    /// Errors: [`Error::Open`], [`Error::Create`], [`Error::Damaged`], [`Error::Database`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        file::prepare(path, &mut warnings)?;
        let database = file::open(path)?;
        file::restrict(path, &mut warnings)?;
        let mut store = Self {
            path: path.to_owned(),
            database: Some(database),
            source: PolicySource::default(),
            stored: Objects::default(),
            attempted: None,
            warnings,
        };
        store.source = read_source(&store.read()?)?;
        if store.source.store.is_nil() {
            // It was just created, or by a version whose stores have no id.
            store.source.store = Uuid::new_v4();
            let id = store.source.store;
            store.transact(|transaction| {
                let mut meta = transaction.open_table(META)?;
                meta.insert(STORE_ID, id.as_bytes().as_slice())?;
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the store's id and the number of its last commit.
    pub fn source(&self) -> PolicySource {
        self.source
    }

    /// Loads all objects, with two exceptions: static and dynamic objects from another boot than
    /// `boot_id`, and persistent objects of a provider whose systemd unit is not enabled.
    ///
    /// Errors: [`Error::Database`], [`Error::Unreadable`].
    pub fn load(
        &mut self,
        boot_id: &str,
        is_enabled: &dyn Fn(&str) -> bool,
    ) -> Result<Loaded, Error> {
        let transaction = self.read()?;
        let meta = transaction.open_table(META)?;
        let same_boot = is_same_boot(&meta, boot_id)?;
        let mut loading = Loading::new(same_boot, read_number(&meta, LAST_ID)?);
        loading.read_table::<Provider>(&transaction, &|provider| {
            provider.service_name.as_deref().is_none_or(is_enabled)
        })?;
        loading.read_table::<Sublayer>(&transaction, &|_| true)?;
        loading.read_table::<Service>(&transaction, &|_| true)?;
        loading.read_table::<Filter>(&transaction, &|_| true)?;
        let mut loaded = loading.finish();
        loaded.warnings.clone_from(&self.warnings);
        self.stored = loaded.objects.clone();
        Ok(loaded)
    }

    /// Stores the boot id. If it has changed, deletes the static and dynamic objects of the
    /// previous boot.
    ///
    /// Errors: [`Error::Database`].
    pub fn begin_boot(&mut self, boot_id: &str) -> Result<(), Error> {
        if is_same_boot(&self.read()?.open_table(META)?, boot_id)? {
            return Ok(());
        }
        self.transact(|transaction| {
            transaction
                .open_table(META)?
                .insert(BOOT_ID, boot_id.as_bytes())?;
            delete_expired::<Filter>(transaction)?;
            delete_expired::<Service>(transaction)?;
            delete_expired::<Sublayer>(transaction)?;
            delete_expired::<Provider>(transaction)
        })
    }

    /// Changes the file from the objects that were loaded, or last written, to other ones, in one
    /// transaction. After a crash at any moment, the file has exactly one of the two sets. Returns
    /// the commit.
    ///
    /// Errors: [`Error::Database`]. Then the previous objects count as stored, and the next call
    /// opens the file again: a full disk may have room by then.
    pub fn write(&mut self, after: &Objects) -> Result<PolicySource, Error> {
        self.reopen()?;
        let before = self.stored.clone();
        let commit = self.source.commit + 1;
        let written = self.transact(|transaction| {
            write_table::<Provider>(transaction, &before, after)?;
            write_table::<Sublayer>(transaction, &before, after)?;
            write_table::<Service>(transaction, &before, after)?;
            write_table::<Filter>(transaction, &before, after)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(LAST_ID, after.last_id().to_le_bytes().as_slice())?;
            meta.insert(COMMIT, commit.to_le_bytes().as_slice())?;
            Ok(())
        });
        if let Err(error) = written {
            self.attempted = Some(after.clone());
            return Err(error);
        }
        self.source.commit = commit;
        self.stored = after.clone();
        Ok(self.source)
    }

    /// Returns whether a policy was adopted: see [`Self::adopt`].
    ///
    /// Errors: [`Error::Database`].
    pub fn has_adopted(&mut self, generation: u64, source: PolicySource) -> Result<bool, Error> {
        let meta = self.read()?.open_table(META)?;
        let stored = meta.get(ADOPTED)?;
        Ok(stored.is_some_and(|stored| stored.value() == adoption(generation, source)))
    }

    /// Returns whether any policy was adopted with this store.
    ///
    /// Errors: [`Error::Database`].
    pub fn is_for_adopted(&mut self) -> Result<bool, Error> {
        let meta = self.read()?.open_table(META)?;
        Ok(meta.get(ADOPTED)?.is_some())
    }

    /// Remembers that a policy in the kernel, which comes from another source, stays in force
    /// although its objects are not stored.
    ///
    /// Errors: [`Error::Database`].
    pub fn adopt(&mut self, generation: u64, source: PolicySource) -> Result<(), Error> {
        self.transact(|transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(ADOPTED, adoption(generation, source).as_slice())?;
            Ok(())
        })
    }

    /// Opens the file again after an error, and finds out whether the commit that failed is in it.
    fn reopen(&mut self) -> Result<(), Error> {
        if self.database.is_some() {
            return Ok(());
        }
        self.database = Some(file::open(&self.path)?);
        let found = read_source(&self.read()?)?;
        let attempted = self.attempted.take();
        if found == self.source {
            return Ok(());
        }
        let next = PolicySource {
            commit: self.source.commit + 1,
            ..self.source
        };
        match attempted {
            Some(attempted) if found == next => {
                self.stored = attempted;
                self.source = found;
                Ok(())
            }
            _ => Err(Error::Replaced {
                path: self.path.clone(),
            }),
        }
    }

    fn read(&mut self) -> Result<ReadTransaction, Error> {
        let database = self.database.as_ref().ok_or_else(Error::closed)?;
        Ok(database.begin_read()?)
    }

    fn transact(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let database = self.database.as_ref().ok_or_else(Error::closed)?;
        let result = database
            .begin_write()
            .map_err(Error::from)
            .and_then(|mut transaction| {
                // In two phases, a commit that can be read is whole. If its checksums do not fit,
                // the file is damaged, and redb does not go back to the commit before it.
                transaction.set_two_phase_commit(true);
                change(&transaction)?;
                Ok(transaction.commit()?)
            });
        if result.is_err() {
            self.database = None;
        }
        result
    }
}

/// Reads the id of a store and the number of its last commit. A store that was never written has
/// neither.
fn read_source(transaction: &ReadTransaction) -> Result<PolicySource, Error> {
    let meta = match transaction.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(PolicySource::default()),
        meta => meta?,
    };
    let id = meta.get(STORE_ID)?;
    let id = id.and_then(|stored| Uuid::from_slice(stored.value()).ok());
    Ok(PolicySource {
        store: id.unwrap_or_default(),
        commit: read_number(&meta, COMMIT)?,
    })
}

/// Returns whether the store was written in this boot.
fn is_same_boot(meta: &impl Meta, boot_id: &str) -> Result<bool, Error> {
    let stored = meta.get(BOOT_ID)?;
    Ok(stored.is_some_and(|stored| stored.value() == boot_id.as_bytes()))
}

/// Reads a number of the store's properties; 0 if it is missing.
fn read_number(meta: &impl Meta, name: &str) -> Result<u64, Error> {
    let number = meta.get(name)?;
    let number = number.and_then(|stored| stored.value().try_into().ok());
    Ok(number.map_or(0, u64::from_le_bytes))
}

/// Returns how the store records that a policy was adopted.
fn adoption(generation: u64, source: PolicySource) -> Vec<u8> {
    let mut bytes = source.store.into_bytes().to_vec();
    bytes.extend(source.commit.to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes
}

/// Writes the differences between two sets. Entries that are the same are shared in memory, so
/// pointers are compared.
fn write_table<T: Stored>(
    transaction: &WriteTransaction,
    before: &Objects,
    after: &Objects,
) -> Result<(), Error> {
    let mut table = transaction.open_table(T::TABLE)?;
    let mut old = before
        .entries::<T>()
        .filter(|entry| is_stored(entry))
        .peekable();
    let mut new = after
        .entries::<T>()
        .filter(|entry| is_stored(entry))
        .peekable();
    let key = |entry: &ObjectEntry<T>| entry.object.identity().key.as_u128();
    loop {
        let (take_old, take_new) = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(old_entry), Some(new_entry)) => (
                key(old_entry) <= key(new_entry),
                key(new_entry) <= key(old_entry),
            ),
            (left, right) => (left.is_some(), right.is_some()),
        };
        match (old.next_if(|_| take_old), new.next_if(|_| take_new)) {
            (Some(old_entry), Some(new_entry)) if std::sync::Arc::ptr_eq(old_entry, new_entry) => {}
            (_, Some(new_entry)) => {
                let record = record::encode(new_entry);
                table.insert(key(new_entry), record.as_slice())?;
            }
            (Some(old_entry), None) => drop(table.remove(key(old_entry))?),
            (None, None) => return Ok(()),
        }
    }
}

fn delete_expired<T: Stored>(transaction: &WriteTransaction) -> Result<(), Error> {
    let mut table = transaction.open_table(T::TABLE)?;
    table.retain(|_, value| {
        // A record that cannot be read stays here: `load` reports it as an error.
        record::decode::<T>(value).map_or(true, |entry| !ends_with_boot(entry.object.lifetime()))
    })?;
    Ok(())
}

fn is_stored<T: Stored>(entry: &ObjectEntry<T>) -> bool {
    entry.object.lifetime() != Lifetime::BuiltIn
}

/// Returns whether objects of this lifetime end when the host restarts.
fn ends_with_boot(lifetime: Lifetime) -> bool {
    matches!(lifetime, Lifetime::Static | Lifetime::Dynamic)
}

#[cfg(test)]
mod tests;
