//! A set of objects that fit one another: what a commit puts in force (specification, 4.1 and 4.2).
//!
//! Every change keeps the rules: unique keys, references to what exists and lives long enough,
//! limits, and who may change what. A clone is cheap, and shares what neither changes; so a
//! transaction works on one.

mod apply;
mod entry;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

pub use self::apply::{Change, Desired, Difference, Operation};
pub use self::entry::{Author, Entry, Kind, Object};
use crate::object::Uuid;
use crate::{Code, Error, Filter, Lifetime, Provider, SUBLAYER_UNIVERSAL, Service, Sublayer};

/// Providers at once.
pub const PROVIDERS_MAX: usize = 1024;
/// Sublayers at once, the universal one among them.
pub const SUBLAYERS_MAX: usize = 65_536;
/// Services at once.
pub const SERVICES_MAX: usize = 255;
/// Filters at once.
pub const FILTERS_MAX: usize = 100_000;

/// Objects of one kind, by key.
type Table<T> = Arc<BTreeMap<Uuid, Arc<Entry<T>>>>;

/// All objects. The default has the built-in ones only.
#[derive(Clone, Debug)]
pub struct Objects {
    providers: Table<Provider>,
    sublayers: Table<Sublayer>,
    services: Table<Service>,
    filters: Table<Filter>,
    /// How many objects refer to one; none: it is not here.
    references: Arc<BTreeMap<(Kind, Uuid), u32>>,
    /// The last filter's number. None is given twice.
    last_id: u64,
}

impl Objects {
    /// The entries of a kind, in the order of their keys.
    pub fn entries<T: Object>(&self) -> impl ExactSizeIterator<Item = &Arc<Entry<T>>> {
        T::table(self).values()
    }

    /// The objects of a kind, in the order of their keys.
    pub fn all<T: Object>(&self) -> impl ExactSizeIterator<Item = &T> {
        self.entries().map(|entry: &Arc<Entry<T>>| &entry.object)
    }

    /// As [`Self::entries`], but only those behind a key: to go on with a list.
    pub fn entries_after<T: Object>(
        &self,
        key: Option<Uuid>,
    ) -> impl Iterator<Item = &Arc<Entry<T>>> {
        let begin = key.map_or(Bound::Unbounded, Bound::Excluded);
        let range = T::table(self).range((begin, Bound::Unbounded));
        range.map(|(_, entry)| entry)
    }

    /// An entry. Errors: …_NOT_FOUND of its kind.
    pub fn entry<T: Object>(&self, key: Uuid) -> Result<&Arc<Entry<T>>, Error> {
        T::table(self)
            .get(&key)
            .ok_or_else(|| T::KIND.not_found(key))
    }

    /// An object. Errors: …_NOT_FOUND of its kind.
    pub fn get<T: Object>(&self, key: Uuid) -> Result<&T, Error> {
        self.entry(key).map(|entry| &entry.object)
    }

    /// A service by its name. Errors: FWP_E_CALLOUT_NOT_FOUND.
    pub fn service_named(&self, name: &str) -> Result<&Arc<Entry<Service>>, Error> {
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

    /// Adds an object. In a dynamic session it becomes dynamic; a filter gets its number. `new_key`
    /// makes the key if it has none.
    ///
    /// Errors: those of the object's own check; FWP_E_BUILTIN_OBJECT, …ALREADY_EXISTS,
    /// …DYNAMIC_SESSION_IN_PROGRESS, …LIFETIME_MISMATCH, …WRONG_SESSION, …_NOT_FOUND of what it
    /// refers to, …TOO_MANY_SUBLAYERS, …TOO_MANY_CALLOUTS, …OUT_OF_BOUNDS.
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
            return Err(exists::<T>(self, key));
        }
        T::KIND.check_room(T::table(self).len() + 1)?;
        self.check_name(&object)?;
        let entry = self.settle(object, author)?;
        self.insert(entry);
        Ok(key)
    }

    /// Deletes an object.
    ///
    /// Errors: …_NOT_FOUND of its kind, FWP_E_BUILTIN_OBJECT, …WRONG_SESSION, …IN_USE.
    pub fn delete<T: Object>(&mut self, key: Uuid, author: &Author) -> Result<(), Error> {
        let entry = self.entry::<T>(key)?.clone();
        self.check_right(&entry, author)?;
        if let Some(count) = self.references.get(&(T::KIND, key)) {
            return Err(Error::new(
                Code::InUse,
                format!(
                    "{} is referred to by {count} objects; delete them first",
                    entry.title()
                ),
            ));
        }
        self.remove::<T>(key);
        Ok(())
    }

    /// Whether nothing was changed between this set and a clone of it.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.providers, &other.providers)
            && Arc::ptr_eq(&self.sublayers, &other.sublayers)
            && Arc::ptr_eq(&self.services, &other.services)
            && Arc::ptr_eq(&self.filters, &other.filters)
    }

    /// Deletes all objects of a dynamic session, and says how many there were.
    pub fn remove_session(&mut self, session: u64) -> usize {
        let gone = Some(session);
        // Nothing else may refer to them, so each kind can go before those it refers to.
        self.retain::<Filter>(|entry| entry.author.session != gone)
            + self.retain::<Service>(|entry| entry.author.session != gone)
            + self.retain::<Sublayer>(|entry| entry.author.session != gone)
            + self.retain::<Provider>(|entry| entry.author.session != gone)
    }

    /// How many objects a dynamic session has.
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

    /// The last filter's number.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Begins numbering filters behind `id`, if it is not there yet: for objects out of a store.
    pub fn number_from(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// What is judged by from boot until the store is loaded: boot-time filters, and what they refer
    /// to.
    pub fn at_boot(&self) -> Self {
        self.only(|filter| filter.lifetime == Lifetime::BootTime)
    }

    /// What is judged by afterwards: all but the boot-time filters.
    pub fn after_boot(&self) -> Self {
        self.only(|filter| filter.lifetime != Lifetime::BootTime)
    }

    fn only(&self, keep: impl Fn(&Filter) -> bool) -> Self {
        let mut objects = self.clone();
        if !self.all::<Filter>().all(&keep) {
            objects.retain::<Filter>(|entry| keep(&entry.object));
        }
        objects
    }

    /// Puts back what was in a set before: no right is asked, a filter keeps its number.
    ///
    /// Errors: as [`Self::add`].
    pub fn restore<T: Object>(&mut self, entry: Entry<T>) -> Result<(), Error> {
        entry.object.check()?;
        let key = entry.object.identity().key;
        if key.is_nil() || T::table(self).contains_key(&key) {
            return Err(exists::<T>(self, key));
        }
        T::KIND.check_room(T::table(self).len() + 1)?;
        self.check_name(&entry.object)?;
        self.check_references(&entry)?;
        self.number_from(entry.object.id());
        self.insert(entry);
        Ok(())
    }

    /// An object as its author's: dynamic in a dynamic session, numbered, and fit to be inserted.
    fn settle<T: Object>(&mut self, mut object: T, author: &Author) -> Result<Entry<T>, Error> {
        *object.lifetime_mut() = author.lifetime(object.lifetime(), T::KIND)?;
        let entry = Entry {
            object,
            author: author.clone(),
        };
        self.check_vendor(&entry)?;
        self.check_references(&entry)?;
        let Entry { mut object, author } = entry;
        if T::KIND == Kind::Filter {
            self.last_id += 1;
            object.set_id(self.last_id);
        }
        Ok(Entry { object, author })
    }

    /// Whether an author may delete or replace what is there.
    fn check_right<T: Object>(&self, entry: &Entry<T>, author: &Author) -> Result<(), Error> {
        if entry.object.lifetime() == Lifetime::BuiltIn {
            return Err(Error::new(
                Code::BuiltinObject,
                format!("{} is built in", entry.title()),
            ));
        }
        if entry.author.session.is_some() && entry.author.session != author.session {
            return Err(Error::new(
                Code::WrongSession,
                format!("{} is another session's", entry.title()),
            ));
        }
        if author.is_root() || self.vendor(entry) == Some(author.uid) {
            return Ok(());
        }
        Err(Error::new(
            Code::WrongSession,
            format!(
                "{} is not of a provider that user {} has added",
                entry.title(),
                author.uid
            ),
        ))
    }

    /// Who is no root adds objects to its own providers only.
    fn check_vendor<T: Object>(&self, entry: &Entry<T>) -> Result<(), Error> {
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
                "{} needs a provider that user {} has added; only root may do without",
                entry.title(),
                author.uid
            ),
        ))
    }

    /// The user who added the provider of an object; a provider is its own.
    fn vendor<T: Object>(&self, entry: &Entry<T>) -> Option<u32> {
        match (T::KIND, entry.object.provider()) {
            (Kind::Provider, _) => Some(entry.author.uid),
            (_, Some(provider)) => Some(self.providers.get(&provider)?.author.uid),
            (_, None) => None,
        }
    }

    fn check_name<T: Object>(&self, object: &T) -> Result<(), Error> {
        let identity = object.identity();
        if T::KIND != Kind::Service {
            return Ok(());
        }
        match self.service_named(&identity.name) {
            Ok(other) if other.object.identity.key != identity.key => Err(Error::new(
                Code::AlreadyExists,
                format!("there is another service named {:?}", identity.name),
            )),
            _ => Ok(()),
        }
    }

    fn check_references<T: Object>(&self, entry: &Entry<T>) -> Result<(), Error> {
        let mut references = entry.object.references().into_iter().flatten();
        references.try_for_each(|(kind, key)| match kind {
            Kind::Provider => entry.check_reference(self.entry::<Provider>(key)?),
            Kind::Sublayer => entry.check_reference(self.entry::<Sublayer>(key)?),
            Kind::Service => entry.check_reference(self.entry::<Service>(key)?),
            Kind::Filter => entry.check_reference(self.entry::<Filter>(key)?),
        })
    }

    /// Puts an entry in, in the place of one with the same key.
    fn insert<T: Object>(&mut self, entry: Entry<T>) {
        let references = Arc::make_mut(&mut self.references);
        for reference in entry.object.references().into_iter().flatten() {
            *references.entry(reference).or_default() += 1;
        }
        let key = entry.object.identity().key;
        let before = Arc::make_mut(T::table_mut(self)).insert(key, Arc::new(entry));
        if let Some(before) = before {
            self.release(&before.object);
        }
    }

    fn remove<T: Object>(&mut self, key: Uuid) {
        if let Some(entry) = Arc::make_mut(T::table_mut(self)).remove(&key) {
            self.release(&entry.object);
        }
    }

    /// What it refers to has one reference less.
    fn release<T: Object>(&mut self, object: &T) {
        let references = Arc::make_mut(&mut self.references);
        for reference in object.references().into_iter().flatten() {
            match references.get_mut(&reference) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(references.remove(&reference)),
            }
        }
    }

    fn retain<T: Object>(&mut self, keep: impl Fn(&Entry<T>) -> bool) -> usize {
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
        objects.insert(Entry {
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

fn exists<T: Object>(objects: &Objects, key: Uuid) -> Error {
    let code = match T::table(objects).get(&key) {
        Some(entry) if entry.object.lifetime() == Lifetime::BuiltIn => Code::BuiltinObject,
        _ => Code::AlreadyExists,
    };
    Error::new(
        code,
        format!("there is a {} of key {key} already", T::KIND.name()),
    )
}

#[cfg(test)]
mod tests;
