//! What survives the daemon and the machine: objects in a redb file, changed by whole commits.
//!
//! A record is the object's message of the contract, with its author. Static and dynamic objects are kept
//! too, but only for the machine's running time: so a restarted daemon knows what the kernel judges by.

mod record;

use std::collections::BTreeSet;
use std::path::Path;

use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};
use sidetrack_policy::set::{Entry, Kind};
use sidetrack_policy::{Filter, Lifetime, Objects, Provider, Service, Sublayer, Uuid};

use self::record::Stored;
use crate::Error;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const BOOT: &str = "boot";
const LAST_ID: &str = "last filter number";

/// The open file. One process has it.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

/// What a store held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects.
    pub objects: Objects,
    /// What was left out, and why: sentences.
    pub notes: Vec<String>,
}

impl Store {
    /// Opens a file, or makes it. A file that was not closed is brought to its last commit.
    ///
    /// Errors: [`Error::Store`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let database = Database::create(path)
            .map_err(|error| Error::Store(format!("cannot open {}: {error}", path.display())))?;
        Ok(Self { database })
    }

    /// Reads all. Static and dynamic objects of another running time of the machine (`boot`) are not
    /// loaded, nor are persistent ones of a provider whose unit is not `enabled`.
    ///
    /// Errors: [`Error::Store`], also for a record that cannot be read.
    pub fn load(&self, boot: &str, enabled: &dyn Fn(&str) -> bool) -> Result<Loaded, Error> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let mut load = Load::default();
        match transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Loaded::default()),
            Err(error) => return Err(failed(error)),
            Ok(meta) => {
                let read = |key| meta.get(key).map_err(failed);
                load.same_boot =
                    read(BOOT)?.is_some_and(|stored| stored.value() == boot.as_bytes());
                let last = read(LAST_ID)?.and_then(|stored| stored.value().try_into().ok());
                load.objects.number_from(last.map_or(0, u64::from_le_bytes));
            }
        }
        load.kind::<Provider>(&transaction, &|provider| {
            provider.service_name.as_deref().is_none_or(enabled)
        })?;
        load.kind::<Sublayer>(&transaction, &|_| true)?;
        load.kind::<Service>(&transaction, &|_| true)?;
        load.kind::<Filter>(&transaction, &|_| true)?;
        let mut notes = Vec::new();
        if load.old > 0 {
            notes.push(format!(
                "{} objects that were not persistent ended with the machine's last run",
                load.old
            ));
        }
        if !load.skipped.is_empty() {
            notes.push(format!(
                "{} persistent objects are not loaded: their provider's unit is not enabled",
                load.skipped.len()
            ));
        }
        Ok(Loaded {
            objects: load.objects,
            notes,
        })
    }

    /// Begins a running time of the machine: what was static or dynamic before is deleted.
    ///
    /// Errors: [`Error::Store`].
    pub fn begin(&self, boot: &str) -> Result<(), Error> {
        self.transact(|transaction| {
            let before = {
                let mut meta = transaction.open_table(META).map_err(failed)?;
                let before = meta.insert(BOOT, boot.as_bytes()).map_err(failed)?;
                before.map(|stored| stored.value().to_vec())
            };
            if before.as_deref() == Some(boot.as_bytes()) {
                return Ok(());
            }
            delete_passing::<Filter>(transaction)?;
            delete_passing::<Service>(transaction)?;
            delete_passing::<Sublayer>(transaction)?;
            delete_passing::<Provider>(transaction)
        })
    }

    /// Brings the file from one set of objects to another, in one transaction: after a crash at any
    /// moment it holds the one or the other, whole.
    ///
    /// Errors: [`Error::Store`]; then it holds the one before.
    pub fn write(&self, before: &Objects, after: &Objects) -> Result<(), Error> {
        self.transact(|transaction| {
            write_kind::<Provider>(transaction, before, after)?;
            write_kind::<Sublayer>(transaction, before, after)?;
            write_kind::<Service>(transaction, before, after)?;
            write_kind::<Filter>(transaction, before, after)?;
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let last = after.last_id().to_le_bytes();
            meta.insert(LAST_ID, last.as_slice()).map_err(failed)?;
            Ok(())
        })
    }

    fn transact(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let transaction = self.database.begin_write().map_err(failed)?;
        change(&transaction)?;
        transaction.commit().map_err(failed)
    }
}

/// A load as it goes.
#[derive(Default)]
struct Load {
    objects: Objects,
    same_boot: bool,
    /// Objects left out for their provider, or for what they refer to.
    skipped: BTreeSet<(Kind, Uuid)>,
    /// Objects of another running time, which those that stay cannot refer to.
    old: usize,
}

impl Load {
    fn kind<T: Stored>(
        &mut self,
        transaction: &redb::ReadTransaction,
        wanted: &dyn Fn(&T) -> bool,
    ) -> Result<(), Error> {
        let table = match transaction.open_table(T::TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            other => other.map_err(failed)?,
        };
        for item in table.iter().map_err(failed)? {
            let (key, value) = item.map_err(failed)?;
            let key = Uuid::from_u128(key.value());
            let entry: Entry<T> =
                record::decode(value.value()).map_err(|error| unreadable(T::KIND, key, &error))?;
            self.entry(key, entry, wanted)?;
        }
        Ok(())
    }

    fn entry<T: Stored>(
        &mut self,
        key: Uuid,
        entry: Entry<T>,
        wanted: &dyn Fn(&T) -> bool,
    ) -> Result<(), Error> {
        let lifetime = entry.object.lifetime();
        if passes(lifetime) && !self.same_boot {
            self.old += 1;
            return Ok(());
        }
        let mut references = entry.object.references().into_iter().flatten();
        let orphaned = references.any(|reference| self.skipped.contains(&reference));
        let unwanted = !passes(lifetime) && !wanted(&entry.object);
        if orphaned || unwanted {
            self.skipped.insert((T::KIND, key));
            return Ok(());
        }
        self.objects
            .restore(entry)
            .map_err(|error| unreadable(T::KIND, key, &error.to_string()))
    }
}

/// Writes what differs. Entries that neither set has changed are the same in memory.
fn write_kind<T: Stored>(
    transaction: &WriteTransaction,
    before: &Objects,
    after: &Objects,
) -> Result<(), Error> {
    let mut table = transaction.open_table(T::TABLE).map_err(failed)?;
    let mut old = before
        .entries::<T>()
        .filter(|entry| is_kept(entry))
        .peekable();
    let mut new = after
        .entries::<T>()
        .filter(|entry| is_kept(entry))
        .peekable();
    let key = |entry: &Entry<T>| entry.object.identity().key.as_u128();
    loop {
        let (gone, come) = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(left), Some(right)) => (key(left) <= key(right), key(right) <= key(left)),
            (left, right) => (left.is_some(), right.is_some()),
        };
        match (old.next_if(|_| gone), new.next_if(|_| come)) {
            (Some(left), Some(right)) if std::sync::Arc::ptr_eq(left, right) => {}
            (_, Some(right)) => {
                let record = record::encode(right);
                table
                    .insert(key(right), record.as_slice())
                    .map_err(failed)?;
            }
            (Some(left), None) => drop(table.remove(key(left)).map_err(failed)?),
            (None, None) => return Ok(()),
        }
    }
}

fn delete_passing<T: Stored>(transaction: &WriteTransaction) -> Result<(), Error> {
    let mut table = transaction.open_table(T::TABLE).map_err(failed)?;
    table
        .retain(|_, value| {
            // What cannot be read is the load's to tell.
            record::decode::<T>(value).map_or(true, |entry| !passes(entry.object.lifetime()))
        })
        .map_err(failed)
}

fn is_kept<T: Stored>(entry: &Entry<T>) -> bool {
    entry.object.lifetime() != Lifetime::BuiltIn
}

/// Whether it ends with the machine's running time.
fn passes(lifetime: Lifetime) -> bool {
    matches!(lifetime, Lifetime::Static | Lifetime::Dynamic)
}

fn unreadable(kind: Kind, key: Uuid, why: &str) -> Error {
    Error::Store(format!(
        "the {} of key {key} cannot be read ({why}); put back a copy of the file, or delete it",
        kind.name()
    ))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Store(error.to_string())
}

#[cfg(test)]
mod tests;
