//! A whole policy of one owner, put in the place of its last one.

use std::collections::BTreeSet;

use super::{Author, Entry, Kind, Object, Objects, exists};
use crate::object::Uuid;
use crate::{Code, Error, Filter, Identity, Provider, Service, Sublayer};

/// What an owner wants there to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Desired {
    pub providers: Vec<Provider>,
    pub sublayers: Vec<Sublayer>,
    pub services: Vec<Service>,
    pub filters: Vec<Filter>,
}

/// What an apply changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Each change.
    pub changes: Vec<Change>,
    /// Objects that were there already, just so.
    pub unchanged: usize,
}

/// One object's change. The object is in the sets before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Change {
    pub operation: Operation,
    pub kind: Kind,
    pub key: Uuid,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Add,
    Replace,
    Remove,
}

impl Difference {
    /// How many changes of one sort there are.
    pub fn count(&self, operation: Operation) -> usize {
        let changes = self.changes.iter();
        changes.filter(|each| each.operation == operation).count()
    }

    fn push<T: Object>(&mut self, operation: Operation, key: Uuid) {
        self.changes.push(Change {
            operation,
            kind: T::KIND,
            key,
        });
    }
}

impl Objects {
    /// Makes an owner's objects those desired, and tells the difference. What others added stays.
    ///
    /// After an error the set is not to be used any more: apply to a clone.
    ///
    /// Errors: as [`Self::add`] and [`Self::delete`]; FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS of the
    /// owner's name.
    pub fn apply(&mut self, mut desired: Desired, author: &Author) -> Result<Difference, Error> {
        let owner = check_owner(author)?;
        let providers = keys(&mut desired.providers, owner)?;
        let sublayers = keys(&mut desired.sublayers, owner)?;
        let services = keys(&mut desired.services, owner)?;
        let filters = keys(&mut desired.filters, owner)?;
        let mut difference = Difference::default();
        // Filters go first, as they refer to all others, which go last.
        self.sweep::<Filter>(&filters, author, &mut difference)?;
        self.place(desired.providers, author, &mut difference)?;
        self.place(desired.sublayers, author, &mut difference)?;
        self.place(desired.services, author, &mut difference)?;
        self.place(desired.filters, author, &mut difference)?;
        self.sweep::<Service>(&services, author, &mut difference)?;
        self.sweep::<Sublayer>(&sublayers, author, &mut difference)?;
        self.sweep::<Provider>(&providers, author, &mut difference)?;
        self.check_whole(&difference)?;
        Ok(difference)
    }

    /// Adds what is not there, replaces what differs.
    fn place<T: Object>(
        &mut self,
        desired: Vec<T>,
        author: &Author,
        difference: &mut Difference,
    ) -> Result<(), Error> {
        for object in desired {
            let key = object.identity().key;
            let Some(before) = T::table(self).get(&key).cloned() else {
                object.check()?;
                let entry = self.settle(object, author)?;
                self.insert(entry);
                difference.push::<T>(Operation::Add, key);
                continue;
            };
            if before.author.owner != author.owner {
                return Err(exists::<T>(self, key));
            }
            if is_same(&before, &object, author) {
                difference.unchanged += 1;
                continue;
            }
            object.check()?;
            self.check_right(&before, author)?;
            let entry = self.settle(object, author)?;
            self.insert(entry);
            difference.push::<T>(Operation::Replace, key);
        }
        Ok(())
    }

    /// Deletes the owner's objects that are not desired any more.
    fn sweep<T: Object>(
        &mut self,
        desired: &BTreeSet<Uuid>,
        author: &Author,
        difference: &mut Difference,
    ) -> Result<(), Error> {
        let gone: Vec<Uuid> = T::table(self)
            .iter()
            .filter(|(key, entry)| entry.author.owner == author.owner && !desired.contains(*key))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.delete::<T>(key, author)?;
            difference.push::<T>(Operation::Remove, key);
        }
        Ok(())
    }

    /// What can be told only of the whole: limits, names, and references to what was replaced.
    fn check_whole(&self, difference: &Difference) -> Result<(), Error> {
        Kind::Provider.check_room(self.providers.len())?;
        Kind::Sublayer.check_room(self.sublayers.len())?;
        Kind::Service.check_room(self.services.len())?;
        Kind::Filter.check_room(self.filters.len())?;
        self.all::<Service>()
            .try_for_each(|service| self.check_name(service))?;
        let replaced: BTreeSet<(Kind, Uuid)> = difference
            .changes
            .iter()
            .filter(|change| change.operation == Operation::Replace && change.kind != Kind::Filter)
            .map(|change| (change.kind, change.key))
            .collect();
        if replaced.is_empty() {
            return Ok(());
        }
        self.recheck::<Sublayer>(&replaced)?;
        self.recheck::<Service>(&replaced)?;
        self.recheck::<Filter>(&replaced)
    }

    fn recheck<T: Object>(&self, replaced: &BTreeSet<(Kind, Uuid)>) -> Result<(), Error> {
        let mut concerned = self.entries::<T>().filter(|entry| {
            let mut references = entry.object.references().into_iter().flatten();
            references.any(|reference| replaced.contains(&reference))
        });
        concerned.try_for_each(|entry| self.check_references(entry))
    }
}

fn check_owner(author: &Author) -> Result<&str, Error> {
    let owner = author.owner.as_deref().unwrap_or_default();
    let most = crate::object::NAME_SIZE_MAX;
    if owner.is_empty() {
        return Err(Error::new(
            Code::NullDisplayName,
            "a policy needs its owner's name",
        ));
    }
    if owner.len() > most || owner.chars().any(char::is_control) {
        return Err(Error::new(
            Code::OutOfBounds,
            format!("an owner's name has at most {most} bytes, and no control characters"),
        ));
    }
    Ok(owner)
}

/// Gives those objects keys that have none, and collects all.
fn keys<T: Object>(objects: &mut [T], owner: &str) -> Result<BTreeSet<Uuid>, Error> {
    let mut keys = BTreeSet::new();
    for object in objects {
        let identity = object.identity_mut();
        if identity.key.is_nil() {
            identity.key = Identity::applied_key(owner, T::KIND.name(), &identity.name);
        }
        if !keys.insert(identity.key) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!(
                    "two {}s of the policy have the same key or name; one is {:?}",
                    T::KIND.name(),
                    identity.name
                ),
            ));
        }
    }
    Ok(keys)
}

/// Whether there is nothing to do.
fn is_same<T: Object>(before: &Entry<T>, object: &T, author: &Author) -> bool {
    let Ok(lifetime) = author.lifetime(object.lifetime(), T::KIND) else {
        return false;
    };
    if before.author != *author || before.object.lifetime() != lifetime {
        return false;
    }
    let mut object = object.clone();
    *object.lifetime_mut() = lifetime;
    object.set_id(before.object.id());
    object == before.object
}
