//! A consistent set of objects, which a commit puts in force (docs/wfp.md, 4.1 and 4.2).
//!
//! Every change is checked: keys are unique, objects refer only to objects that exist and last long
//! enough, limits are kept, and an author changes only what it may. A clone is cheap, since it
//! shares the kinds of objects that neither set changes; a transaction works on a clone.

mod apply;
mod entry;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

pub use self::apply::{Change, Desired, Difference, Operation, check_owner};
pub use self::entry::{Author, Object, ObjectEntry, ObjectKind};
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

    /// The service with a name. Errors: FWP_E_CALLOUT_NOT_FOUND.
    pub fn service_named(&self, name: &str) -> Result<&Arc<ObjectEntry<Service>>, Error> {
        let mut services = self.services.values();
        services
            .find(|entry| entry.object.identity.name == name)
            .ok_or_else(|| {
                Error::new(
                    Code::CalloutNotFound,
                    format!("there is no service named {name:?}"),
                )
            })
    }

    /// Adds an object and returns its key.
    ///
    /// If the object's key is nil, `new_key` makes one. In a dynamic session the object becomes
    /// dynamic. A filter gets its id.
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
        if T::table(self).contains_key(&key) {
            return Err(already_exists::<T>(self, key));
        }
        T::KIND.check_count(T::table(self).len() + 1)?;
        self.check_name(&object)?;
        let entry = self.new_entry(object, author)?;
        self.insert(entry);
        Ok(key)
    }

    /// Deletes an object.
    ///
    /// Errors: FWP_E_…_NOT_FOUND of the kind, …BUILTIN_OBJECT, …WRONG_SESSION, …IN_USE.
    pub fn delete<T: Object>(&mut self, key: Uuid, author: &Author) -> Result<(), Error> {
        let entry = self.entry::<T>(key)?.clone();
        self.check_may_change(&entry, author)?;
        if let Some(count) = self.references.get(&(T::KIND, key)) {
            return Err(Error::new(
                Code::InUse,
                format!(
                    "{} is in use; delete the objects that refer to it first (number: {count})",
                    entry.title()
                ),
            ));
        }
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

    /// Number of objects of a dynamic session.
    pub fn count_session(&self, session: u64) -> usize {
        fn count<T: Object>(objects: &Objects, session: u64) -> usize {
            let entries = objects.entries::<T>();
            entries
                .filter(|entry| entry.author.session == Some(session))
                .count()
        }
        count::<Filter>(self, session)
            + count::<Service>(self, session)
            + count::<Sublayer>(self, session)
            + count::<Provider>(self, session)
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
    pub fn restore<T: Object>(&mut self, entry: ObjectEntry<T>) -> Result<(), Error> {
        entry.object.check()?;
        let key = entry.object.identity().key;
        if key.is_nil() || T::table(self).contains_key(&key) {
            return Err(already_exists::<T>(self, key));
        }
        T::KIND.check_count(T::table(self).len() + 1)?;
        self.check_name(&entry.object)?;
        self.check_references(&entry)?;
        self.number_from(entry.object.id());
        self.insert(entry);
        Ok(())
    }

    /// The entry of a new object, ready to be inserted: with its lifetime and, if it is a filter,
    /// its id. Checks what the object refers to, and whether the author may add it.
    fn new_entry<T: Object>(
        &mut self,
        mut object: T,
        author: &Author,
    ) -> Result<ObjectEntry<T>, Error> {
        *object.lifetime_mut() = author.lifetime(object.lifetime(), T::KIND)?;
        let entry = ObjectEntry {
            object,
            author: author.clone(),
        };
        self.check_may_add(&entry)?;
        self.check_references(&entry)?;
        let ObjectEntry { mut object, author } = entry;
        if T::KIND == ObjectKind::Filter {
            self.last_id += 1;
            object.set_id(self.last_id);
        }
        Ok(ObjectEntry { object, author })
    }

    /// Checks that an author may delete or replace an entry.
    fn check_may_change<T: Object>(
        &self,
        entry: &ObjectEntry<T>,
        author: &Author,
    ) -> Result<(), Error> {
        if entry.object.lifetime() == Lifetime::BuiltIn {
            return Err(Error::new(
                Code::BuiltinObject,
                format!("{} is built in and cannot be changed", entry.title()),
            ));
        }
        if entry.author.session.is_some() && entry.author.session != author.session {
            return Err(Error::new(
                Code::WrongSession,
                format!(
                    "{} belongs to another session, and only that session can change it",
                    entry.title()
                ),
            ));
        }
        if author.is_root() || self.vendor(entry) == Some(author.uid) {
            return Ok(());
        }
        Err(Error::new(
            Code::WrongSession,
            format!(
                "user {} may not change {}: it does not belong to a provider that this user added",
                author.uid,
                entry.title()
            ),
        ))
    }

    /// Checks that the author of an entry may add it: users other than root add objects only to
    /// providers that they have added themselves.
    fn check_may_add<T: Object>(&self, entry: &ObjectEntry<T>) -> Result<(), Error> {
        let author = &entry.author;
        if author.is_root() || self.vendor(entry) == Some(author.uid) {
            return Ok(());
        }
        if let Some(provider) = entry.object.provider() {
            self.entry::<Provider>(provider)?;
        }
        Err(Error::new(
            Code::WrongSession,
            format!(
                "user {} may not add {}: users other than root add objects only to providers that they \
                 added themselves",
                author.uid,
                entry.title()
            ),
        ))
    }

    /// The user that added the provider of an object; for a provider, the user that added it.
    fn vendor<T: Object>(&self, entry: &ObjectEntry<T>) -> Option<u32> {
        match (T::KIND, entry.object.provider()) {
            (ObjectKind::Provider, _) => Some(entry.author.uid),
            (_, Some(provider)) => Some(self.providers.get(&provider)?.author.uid),
            (_, None) => None,
        }
    }

    fn check_name<T: Object>(&self, object: &T) -> Result<(), Error> {
        let identity = object.identity();
        if T::KIND != ObjectKind::Service {
            return Ok(());
        }
        match self.service_named(&identity.name) {
            Ok(other) if other.object.identity.key != identity.key => Err(Error::new(
                Code::AlreadyExists,
                format!(
                    "there is another service named {:?}; choose another name",
                    identity.name
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_references<T: Object>(&self, entry: &ObjectEntry<T>) -> Result<(), Error> {
        let mut references = entry.object.references().into_iter().flatten();
        references.try_for_each(|(kind, key)| match kind {
            ObjectKind::Provider => entry.check_reference(self.entry::<Provider>(key)?),
            ObjectKind::Sublayer => entry.check_reference(self.entry::<Sublayer>(key)?),
            ObjectKind::Service => entry.check_reference(self.entry::<Service>(key)?),
            ObjectKind::Filter => entry.check_reference(self.entry::<Filter>(key)?),
        })
    }

    /// Inserts an entry. It replaces an entry with the same key.
    fn insert<T: Object>(&mut self, entry: ObjectEntry<T>) {
        let references = Arc::make_mut(&mut self.references);
        for reference in entry.object.references().into_iter().flatten() {
            *references.entry(reference).or_default() += 1;
        }
        let key = entry.object.identity().key;
        let before = Arc::make_mut(T::table_mut(self)).insert(key, Arc::new(entry));
        if let Some(before) = before {
            self.remove_references(&before.object);
        }
    }

    fn remove<T: Object>(&mut self, key: Uuid) {
        if let Some(entry) = Arc::make_mut(T::table_mut(self)).remove(&key) {
            self.remove_references(&entry.object);
        }
    }

    /// Removes the references of a deleted object.
    fn remove_references<T: Object>(&mut self, object: &T) {
        let references = Arc::make_mut(&mut self.references);
        for reference in object.references().into_iter().flatten() {
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
