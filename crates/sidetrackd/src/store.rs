//! The store: a redb file with the objects that outlive the daemon. Each commit is one transaction of the file.
//!
//! A record has the object as a message of the API, and the object's author. Static and dynamic
//! objects are stored too, but only until the host restarts: so a restarted daemon knows which
//! objects are in force in the kernel.

mod error;
mod record;

use std::collections::BTreeSet;
use std::path::Path;

use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};
use sidetrack_abi::text::count;
use sidetrack_policy::set::{ObjectEntry, ObjectKind};
use sidetrack_policy::{Filter, Lifetime, Objects, Provider, Service, Sublayer, Uuid};

pub use self::error::{Error, RecordError};
use self::record::Stored;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const BOOT_ID: &str = "boot";
const LAST_ID: &str = "last filter number";

/// The open file. Only one process at a time can open it.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

/// The contents of a store.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The loaded objects.
    pub objects: Objects,
    /// What was not loaded, and why, one sentence each.
    pub notes: Vec<String>,
}

impl Store {
    /// Opens a file, or creates it. If the file was not closed, it is restored to its last commit.
    ///
    /// Errors: [`Error::Open`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        match Database::create(path) {
            Ok(database) => Ok(Self { database }),
            Err(source) => Err(Error::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Loads all objects, with two exceptions: static and dynamic objects from another boot than
    /// `boot_id`, and persistent objects of a provider whose systemd unit is not enabled.
    ///
    /// Errors: [`Error::Database`], [`Error::Unreadable`].
    pub fn load(&self, boot_id: &str, is_enabled: &dyn Fn(&str) -> bool) -> Result<Loaded, Error> {
        let transaction = self.database.begin_read()?;
        let mut loading = Loading::default();
        match transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Loaded::default()),
            Err(error) => return Err(error.into()),
            Ok(meta) => {
                let read = |key| meta.get(key);
                loading.same_boot =
                    read(BOOT_ID)?.is_some_and(|stored| stored.value() == boot_id.as_bytes());
                let last = read(LAST_ID)?.and_then(|stored| stored.value().try_into().ok());
                loading
                    .objects
                    .number_from(last.map_or(0, u64::from_le_bytes));
            }
        }
        loading.read_table::<Provider>(&transaction, &|provider| {
            provider.service_name.as_deref().is_none_or(is_enabled)
        })?;
        loading.read_table::<Sublayer>(&transaction, &|_| true)?;
        loading.read_table::<Service>(&transaction, &|_| true)?;
        loading.read_table::<Filter>(&transaction, &|_| true)?;
        let mut notes = Vec::new();
        if loading.expired > 0 {
            notes.push(format!(
                "{} not loaded: not persistent, and the host has restarted",
                count(loading.expired, "object")
            ));
        }
        if !loading.skipped.is_empty() {
            notes.push(format!(
                "{} not loaded: the unit of the provider is not enabled",
                count(loading.skipped.len(), "persistent object")
            ));
        }
        Ok(Loaded {
            objects: loading.objects,
            notes,
        })
    }

    /// Stores the boot id. If it has changed, deletes the static and dynamic objects of the
    /// previous boot.
    ///
    /// Errors: [`Error::Database`].
    pub fn begin_boot(&self, boot_id: &str) -> Result<(), Error> {
        self.transact(|transaction| {
            let before = {
                let mut meta = transaction.open_table(META)?;
                let before = meta.insert(BOOT_ID, boot_id.as_bytes())?;
                before.map(|stored| stored.value().to_vec())
            };
            if before.as_deref() == Some(boot_id.as_bytes()) {
                return Ok(());
            }
            delete_expired::<Filter>(transaction)?;
            delete_expired::<Service>(transaction)?;
            delete_expired::<Sublayer>(transaction)?;
            delete_expired::<Provider>(transaction)
        })
    }

    /// Changes the file from one set of objects to another, in one transaction. After a crash at
    /// any moment, the file has exactly one of the two sets.
    ///
    /// Errors: [`Error::Database`]; then the file has the set `before`.
    pub fn write(&self, before: &Objects, after: &Objects) -> Result<(), Error> {
        self.transact(|transaction| {
            write_table::<Provider>(transaction, before, after)?;
            write_table::<Sublayer>(transaction, before, after)?;
            write_table::<Service>(transaction, before, after)?;
            write_table::<Filter>(transaction, before, after)?;
            let mut meta = transaction.open_table(META)?;
            let last = after.last_id().to_le_bytes();
            meta.insert(LAST_ID, last.as_slice())?;
            Ok(())
        })
    }

    fn transact(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let transaction = self.database.begin_write()?;
        change(&transaction)?;
        Ok(transaction.commit()?)
    }
}

/// The state of [`Store::load`].
#[derive(Default)]
struct Loading {
    objects: Objects,
    /// Whether the store was written in this boot.
    same_boot: bool,
    /// Objects that are not loaded because of their provider's unit, or because they refer to such
    /// an object.
    skipped: BTreeSet<(ObjectKind, Uuid)>,
    /// Number of static and dynamic objects from another boot. Persistent objects cannot refer to
    /// them.
    expired: usize,
}

impl Loading {
    fn read_table<T: Stored>(
        &mut self,
        transaction: &redb::ReadTransaction,
        wanted: &dyn Fn(&T) -> bool,
    ) -> Result<(), Error> {
        let table = match transaction.open_table(T::TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            other => other?,
        };
        for item in table.iter()? {
            let (key, value) = item?;
            let key = Uuid::from_u128(key.value());
            let entry: ObjectEntry<T> =
                record::decode(value.value()).map_err(|source| unreadable(T::KIND, key, source))?;
            self.add_entry(key, entry, wanted)?;
        }
        Ok(())
    }

    fn add_entry<T: Stored>(
        &mut self,
        key: Uuid,
        entry: ObjectEntry<T>,
        wanted: &dyn Fn(&T) -> bool,
    ) -> Result<(), Error> {
        let lifetime = entry.object.lifetime();
        if ends_with_boot(lifetime) && !self.same_boot {
            self.expired += 1;
            return Ok(());
        }
        let mut references = entry.object.references().into_iter().flatten();
        let refers_to_skipped = references.any(|reference| self.skipped.contains(&reference));
        let unwanted = !ends_with_boot(lifetime) && !wanted(&entry.object);
        if refers_to_skipped || unwanted {
            self.skipped.insert((T::KIND, key));
            return Ok(());
        }
        self.objects
            .restore(entry)
            .map_err(|refusal| unreadable(T::KIND, key, refusal.into()))
    }
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

fn unreadable(kind: ObjectKind, key: Uuid, source: RecordError) -> Error {
    Error::Unreadable { kind, key, source }
}

#[cfg(test)]
mod tests;
