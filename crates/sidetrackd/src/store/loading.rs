//! Loading of the objects of a store.

use std::collections::BTreeSet;

use redb::{ReadTransaction, ReadableTable, TableError};
use sidetrack_abi::text::count;
use sidetrack_policy::set::{ObjectEntry, ObjectKind};
use sidetrack_policy::{Objects, Uuid};

use super::ends_with_boot;
use super::error::{Error, RecordError};
use super::record::{self, Stored};

/// The contents of a store.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The loaded objects.
    pub objects: Objects,
    /// Whether the store has no objects, loaded or not.
    pub is_empty: bool,
    /// What was not loaded, and why, one sentence each.
    pub notes: Vec<String>,
    /// What an operator should know about the file, one sentence each.
    pub warnings: Vec<String>,
}

/// The state of [`super::Store::load`].
#[derive(Default)]
pub(super) struct Loading {
    objects: Objects,
    /// Whether the store was written in this boot.
    same_boot: bool,
    /// Objects that are not loaded because of their provider's unit, or because they refer to such
    /// an object.
    skipped: BTreeSet<(ObjectKind, Uuid)>,
    /// Number of static and dynamic objects from another boot. Persistent objects cannot refer to
    /// them.
    expired: usize,
    /// Number of all objects.
    found: usize,
}

impl Loading {
    /// Begins to load a store, in which the greatest id of a filter was `last_id`.
    pub(super) fn new(same_boot: bool, last_id: u64) -> Self {
        let mut loading = Self {
            same_boot,
            ..Self::default()
        };
        loading.objects.number_from(last_id);
        loading
    }

    pub(super) fn read_table<T: Stored>(
        &mut self,
        transaction: &ReadTransaction,
        wanted: &dyn Fn(&T) -> bool,
    ) -> Result<(), Error> {
        let table = match transaction.open_table(T::TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            other => other?,
        };
        for item in table.iter()? {
            let (key, value) = item?;
            self.found += 1;
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

    pub(super) fn finish(self) -> Loaded {
        let mut notes = Vec::new();
        if self.expired > 0 {
            notes.push(format!(
                "{} not loaded: not persistent, and the host has restarted",
                count(self.expired, "object")
            ));
        }
        if !self.skipped.is_empty() {
            notes.push(format!(
                "{} not loaded: the unit of the provider is not enabled",
                count(self.skipped.len(), "persistent object")
            ));
        }
        Loaded {
            objects: self.objects,
            is_empty: self.found == 0,
            notes,
            warnings: Vec::new(),
        }
    }
}

fn unreadable(kind: ObjectKind, key: Uuid, source: RecordError) -> Error {
    Error::Unreadable { kind, key, source }
}
