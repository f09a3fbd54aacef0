//! A consistent set of objects, which a commit puts in force (docs/wfp.md, 4.1 and 4.2).
//!
//! Every change is checked: keys are unique, objects refer only to objects that exist and last long
//! enough, limits are kept, and an author changes only what it may. A clone is cheap, since it
//! shares the kinds of objects that neither set changes; a transaction works on a clone.

mod apply;
mod author;
mod entry;
mod permission;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

pub use self::apply::{Change, Desired, Difference, Operation, check_owner};
pub use self::author::{Author, Reach};
pub use self::entry::{Object, ObjectEntry, ObjectKind};
pub use self::permission::{RESTRICTED_BYTES_MAX, RESTRICTED_SHARE};
use crate::object::Uuid;
use crate::{Code, Error, Filter, Lifetime, Provider, SUBLAYER_UNIVERSAL, Service, Sublayer};

/// Greatest number of providers in a set.
pub const PROVIDERS_MAX: usize = 1024;
/// Greatest number of sublayers in a set, including the universal one.
pub const SUBLAYERS_MAX: usize = 65_536;
/// Greatest number of services in a set.
pub const SERVICES_MAX: usize = 255;
/// Greatest number of filters in a set.
pub const FILTERS_MAX: usize = 100_000;

/// The objects of one kind, by key.
type Table<T> = Arc<BTreeMap<Uuid, Arc<ObjectEntry<T>>>>;

/// All objects. The default set contains the built-in ones only.
///
/// ```
/// use sidetrack_policy::set::Author;
/// use sidetrack_policy::{Action, Filter, LayerKind, Objects, Uuid};
///
/// let mut objects = Objects::default();
/// let [layer, _] = LayerKind::AuthConnect.both();
/// let filter = Filter::new("no telnet", layer, Action::Block);
/// let key = objects.add(filter, &Author::default(), || Uuid::from_u128(1))?;
/// assert_eq!(objects.get::<Filter>(key)?.id, 1);
/// # Ok::<(), sidetrack_policy::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Objects {
    providers: Table<Provider>,
    sublayers: Table<Sublayer>,
    services: Table<Service>,
    filters: Table<Filter>,
    /// Number of objects that refer to each object. Objects without references are left out.
    references: Arc<BTreeMap<(ObjectKind, Uuid), u32>>,
    /// Number of the objects of restricted authors, and of the bytes that they take, by kind.
    restricted: BTreeMap<ObjectKind, (usize, usize)>,
    /// Greatest id that a filter has had. An id is never used again.
    last_id: u64,
}

impl Objects {
    /// The entries of one kind, in the order of their keys.
    pub fn entries<T: Object>(&self) -> impl ExactSizeIterator<Item = &Arc<ObjectEntry<T>>> {
        T::table(self).values()
    }

    /// The objects of one kind, in the order of their keys.
    pub fn all<T: Object>(&self) -> impl ExactSizeIterator<Item = &T> {
        self.entries()
            .map(|entry: &Arc<ObjectEntry<T>>| &entry.object)
    }

    /// The entries of one kind with keys greater than `key`, in order; all entries if there is no
    /// `key`. With it, a list can be continued after its last key.
    pub fn entries_after<T: Object>(
        &self,
        key: Option<Uuid>,
    ) -> impl Iterator<Item = &Arc<ObjectEntry<T>>> {
        let begin = key.map_or(Bound::Unbounded, Bound::Excluded);
        let range = T::table(self).range((begin, Bound::Unbounded));
        range.map(|(_, entry)| entry)
    }

    /// The entry with a key. Errors: FWP_E_…_NOT_FOUND of the kind.
    pub fn entry<T: Object>(&self, key: Uuid) -> Result<&Arc<ObjectEntry<T>>, Error> {
        T::table(self)
            .get(&key)
            .ok_or_else(|| T::KIND.not_found(key))
    }

    /// The object with a key. Errors: FWP_E_…_NOT_FOUND of the kind.
    pub fn get<T: Object>(&self, key: Uuid) -> Result<&T, Error> {
        self.entry(key).map(|entry| &entry.object)
    }

    /// Adds an object and returns its key.
    ///
    /// If the object's key is nil, `new_key` makes one. In a dynamic session the object becomes
    /// dynamic. A filter gets its id, and of a restricted author ([`Reach`]) it is restricted to the
    /// author's user. An object of a restricted author that has the key already gives way, with
    /// those that refer to it, to one of another author.
    ///
    /// Errors: those of the object's own check; FWP_E_BUILTIN_OBJECT, …ALREADY_EXISTS,
    /// …DYNAMIC_SESSION_IN_PROGRESS, …LIFETIME_MISMATCH, …WRONG_SESSION, …_NOT_FOUND for an object
    /// to which it refers, …TOO_MANY_SUBLAYERS, …TOO_MANY_CALLOUTS, …OUT_OF_BOUNDS.
    pub fn add<T: Object>(
        &mut self,
        mut object: T,
        author: &Author,
        new_key: impl FnOnce() -> Uuid,
    ) -> Result<Uuid, Error> {
        object.check()?;
        if object.identity().key.is_nil() {
            object.identity_mut().key = new_key();
        }
        let key = object.identity().key;
        let before = T::table(self).get(&key);
        if before.is_some_and(|before| !Self::gives_way(before, author)) {
            return Err(already_exists::<T>(self, key));
        }
        let replaces = before.is_some();
        T::KIND.check_count(T::table(self).len() + usize::from(!replaces))?;
        self.check_share(author, Some(&object))?;
        self.check_name(&object, author)?;
        let entry = self.new_entry(object, author)?;
        if replaces {
            self.remove_restricted_referrers((T::KIND, key), &mut Vec::new());
        }
        self.insert(entry);
        Ok(key)
    }

    /// Deletes an object. If the author is not restricted, the objects of restricted authors that
    /// refer to it are deleted with it.
    ///
    /// Errors: FWP_E_…_NOT_FOUND of the kind, …BUILTIN_OBJECT, …WRONG_SESSION, …IN_USE.
    pub fn delete<T: Object>(&mut self, key: Uuid, author: &Author) -> Result<(), Error> {
        self.delete_with_referrers::<T>(key, author, &mut Vec::new())
    }

    /// The same. Notes the objects that are deleted with it in `removed`.
    fn delete_with_referrers<T: Object>(
        &mut self,
        key: Uuid,
        author: &Author,
        removed: &mut Vec<Change>,
    ) -> Result<(), Error> {
        let entry = self.entry::<T>(key)?.clone();
        self.check_may_change(&entry, author)?;
        let mut count = self.references.get(&(T::KIND, key)).copied().unwrap_or(0) as usize;
        if !author.is_restricted() {
            count -= self.count_restricted_referrers((T::KIND, key));
        }
        if count > 0 {
            return Err(Error::new(
                Code::InUse,
                format!(
                    "{} is in use; delete the objects that refer to it first (number: {count})",
                    entry.title()
                ),
            ));
        }
        self.remove_restricted_referrers((T::KIND, key), removed);
        self.remove::<T>(key);
        Ok(())
    }

    /// True if neither this set nor its clone `other` was changed since it was cloned.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.providers, &other.providers)
            && Arc::ptr_eq(&self.sublayers, &other.sublayers)
            && Arc::ptr_eq(&self.services, &other.services)
            && Arc::ptr_eq(&self.filters, &other.filters)
    }

    /// Deletes all objects of a dynamic session and returns their number.
    pub fn remove_session(&mut self, session: u64) -> usize {
        let gone = Some(session);
        // Only objects of the same session refer to them, so no reference is left if each kind is
        // deleted before the kinds to which it refers.
        self.retain::<Filter>(|entry| entry.author.session != gone)
            + self.retain::<Service>(|entry| entry.author.session != gone)
            + self.retain::<Sublayer>(|entry| entry.author.session != gone)
            + self.retain::<Provider>(|entry| entry.author.session != gone)
    }

    /// Number of objects of each dynamic session that has any.
    pub fn count_sessions(&self) -> HashMap<u64, usize> {
        fn count<T: Object>(objects: &Objects, counts: &mut HashMap<u64, usize>) {
            let sessions = objects
                .entries::<T>()
                .filter_map(|entry| entry.author.session);
            sessions.for_each(|session| *counts.entry(session).or_default() += 1);
        }
        let mut counts = HashMap::new();
        count::<Filter>(self, &mut counts);
        count::<Service>(self, &mut counts);
        count::<Sublayer>(self, &mut counts);
        count::<Provider>(self, &mut counts);
        counts
    }

    /// Greatest id that a filter of this set has had; 0 if there was no filter.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Makes sure that the ids of new filters are greater than `id`. Used when objects are loaded
    /// from a store.
    pub fn number_from(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// The set that is in force while the daemon loads its store, if nothing was pinned: its only filters
    /// are the boot-time ones.
    pub fn at_boot(&self) -> Self {
        self.with_filters(|filter| filter.lifetime == Lifetime::BootTime)
    }

    /// The set that is in force once the store is loaded: all objects except the boot-time filters.
    pub fn after_boot(&self) -> Self {
        self.with_filters(|filter| filter.lifetime != Lifetime::BootTime)
    }

    /// A copy of the set with some of its filters, and all other objects.
    fn with_filters(&self, keep: impl Fn(&Filter) -> bool) -> Self {
        let mut objects = self.clone();
        if !self.all::<Filter>().all(&keep) {
            objects.retain::<Filter>(|entry| keep(&entry.object));
        }
        objects
    }

    /// Adds an entry that was in a set before, for example one from a store. The author's
    /// permission is not checked, and a filter keeps its id.
    ///
    /// Errors: as [`Self::add`].
    pub fn restore<T: Object>(&mut self, mut entry: ObjectEntry<T>) -> Result<(), Error> {
        entry.object.check()?;
        entry.object.restrict(entry.author.only_user()); // as when it was added
        let key = entry.object.identity().key;
        if key.is_nil() || T::table(self).contains_key(&key) {
            return Err(already_exists::<T>(self, key));
        }
        T::KIND.check_count(T::table(self).len() + 1)?;
        self.check_name(&entry.object, &entry.author)?;
        self.check_references(&entry)?;
        self.number_from(entry.object.id());
        self.insert(entry);
        Ok(())
    }

    /// Inserts an entry. It replaces an entry with the same key.
    fn insert<T: Object>(&mut self, entry: ObjectEntry<T>) {
        let references = Arc::make_mut(&mut self.references);
        for reference in entry.object.references().into_iter().flatten() {
            *references.entry(reference).or_default() += 1;
        }
        if entry.author.is_restricted() {
            let (count, bytes) = self.restricted.entry(T::KIND).or_default();
            (*count, *bytes) = (*count + 1, *bytes + entry.object.size());
        }
        let key = entry.object.identity().key;
        let before = Arc::make_mut(T::table_mut(self)).insert(key, Arc::new(entry));
        if let Some(before) = before {
            self.forget(&before);
        }
    }

    fn remove<T: Object>(&mut self, key: Uuid) {
        if let Some(entry) = Arc::make_mut(T::table_mut(self)).remove(&key) {
            self.forget(&entry);
        }
    }

    /// Removes a deleted entry's references, and its part of what restricted authors have.
    fn forget<T: Object>(&mut self, entry: &ObjectEntry<T>) {
        if entry.author.is_restricted() {
            let (count, bytes) = self.restricted.entry(T::KIND).or_default();
            (*count, *bytes) = (*count - 1, *bytes - entry.object.size());
        }
        let references = Arc::make_mut(&mut self.references);
        for reference in entry.object.references().into_iter().flatten() {
            match references.get_mut(&reference) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(references.remove(&reference)),
            }
        }
    }

    /// Removes the entries for which `keep` is false, and returns their number.
    fn retain<T: Object>(&mut self, keep: impl Fn(&ObjectEntry<T>) -> bool) -> usize {
        let gone: Vec<Uuid> = T::table(self)
            .iter()
            .filter(|(_, entry)| !keep(entry))
            .map(|(key, _)| *key)
            .collect();
        gone.iter().for_each(|key| self.remove::<T>(*key));
        gone.len()
    }
}

impl Default for Objects {
    fn default() -> Self {
        let mut objects = Self {
            providers: Table::default(),
            sublayers: Table::default(),
            services: Table::default(),
            filters: Table::default(),
            references: Arc::default(),
            restricted: BTreeMap::new(),
            last_id: 0,
        };
        objects.insert(ObjectEntry {
            object: Sublayer {
                identity: crate::Identity {
                    key: SUBLAYER_UNIVERSAL,
                    name: "universal".into(),
                    description: "for filters that name no sublayer".into(),
                },
                lifetime: Lifetime::BuiltIn,
                provider: None,
                weight: 0,
            },
            author: Author::default(),
        });
        objects
    }
}

fn already_exists<T: Object>(objects: &Objects, key: Uuid) -> Error {
    let code = match T::table(objects).get(&key) {
        Some(entry) if entry.object.lifetime() == Lifetime::BuiltIn => Code::BuiltinObject,
        _ => Code::AlreadyExists,
    };
    Error::new(
        code,
        format!("there is already a {} with the key {key}", T::KIND.name()),
    )
}

#[cfg(test)]
mod tests;
