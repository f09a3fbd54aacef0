//! Applying a policy: the objects of one owner are replaced by those of its new policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Author, Object, ObjectEntry, ObjectKind, Objects, already_exists};
use crate::object::{NAME_SIZE_MAX, Uuid};
use crate::{Code, Error, Filter, Identity, Provider, Service, Sublayer};

/// All objects of an owner's policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Desired {
    pub providers: Vec<Provider>,
    pub sublayers: Vec<Sublayer>,
    pub services: Vec<Service>,
    pub filters: Vec<Filter>,
}

/// The changes that applying a policy made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Changes, one for each object that was added, replaced or removed.
    pub changes: Vec<Change>,
    /// Number of objects that did not need a change.
    pub unchanged: usize,
}

/// The change of one object. The object itself can be found by its key in the set before or after
/// the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Change {
    pub operation: Operation,
    pub kind: ObjectKind,
    pub key: Uuid,
}

/// How an object was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Add,
    Replace,
    Remove,
}

impl Difference {
    /// Number of changes of one kind.
    pub fn count(&self, operation: Operation) -> usize {
        let changes = self.changes.iter();
        changes.filter(|each| each.operation == operation).count()
    }

    /// Kinds and keys of the replaced objects to which others can refer.
    fn replaced(&self) -> BTreeSet<(ObjectKind, Uuid)> {
        let changes = self.changes.iter().filter(|change| {
            change.operation == Operation::Replace && change.kind != ObjectKind::Filter
        });
        changes.map(|change| (change.kind, change.key)).collect()
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
    /// Replaces the objects of `author.owner` by those of a new policy, and returns the difference.
    ///
    /// Objects that the owner applied before, as the same user, and that are not in the new policy
    /// are deleted. Objects of other owners, and objects that were added one by one, stay. Objects of
    /// restricted authors do not stand in the way of an author that is not restricted: if they have
    /// a key of the new policy, or refer to an object that is deleted or that they no longer fit,
    /// they are deleted too, and the difference contains them. An object without a key gets the key
    /// [`Identity::applied_key`].
    ///
    /// After an error the set is inconsistent and must not be used any more: apply to a clone.
    ///
    /// Errors: as [`Self::add`] and [`Self::delete`]; FWP_E_NULL_DISPLAY_NAME and …OUT_OF_BOUNDS
    /// for the owner's name; FWP_E_ALREADY_EXISTS for two objects with the same key or name.
    pub fn apply(&mut self, mut desired: Desired, author: &Author) -> Result<Difference, Error> {
        let owner = author.owner.as_deref().unwrap_or_default();
        check_owner(owner)?;
        let providers = set_keys(&mut desired.providers, owner)?;
        let sublayers = set_keys(&mut desired.sublayers, owner)?;
        let services = set_keys(&mut desired.services, owner)?;
        let filters = set_keys(&mut desired.filters, owner)?;
        let mut difference = Difference::default();
        // Filters refer to objects of all other kinds. So they are deleted first, and the other
        // kinds last.
        self.delete_undesired::<Filter>(&filters, author, &mut difference)?;
        self.add_or_replace(desired.providers, author, &mut difference)?;
        self.add_or_replace(desired.sublayers, author, &mut difference)?;
        self.add_or_replace(desired.services, author, &mut difference)?;
        self.add_or_replace(desired.filters, author, &mut difference)?;
        self.delete_undesired::<Service>(&services, author, &mut difference)?;
        self.delete_undesired::<Sublayer>(&sublayers, author, &mut difference)?;
        self.delete_undesired::<Provider>(&providers, author, &mut difference)?;
        let replaced = difference.replaced();
        if !author.is_restricted() {
            self.remove_misfits(&replaced, &mut difference);
        }
        self.check_whole(&replaced, author)?;
        Ok(difference)
    }

    /// Adds the objects that do not exist and replaces those that differ.
    fn add_or_replace<T: Object>(
        &mut self,
        desired: Vec<T>,
        author: &Author,
        difference: &mut Difference,
    ) -> Result<(), Error> {
        for object in desired {
            let key = object.identity().key;
            let Some(before) = T::table(self).get(&key).cloned() else {
                object.check()?;
                let entry = self.new_entry(object, author)?;
                self.insert(entry);
                difference.push::<T>(Operation::Add, key);
                continue;
            };
            let gives_way = Self::gives_way(&before, author);
            if before.author.owner != author.owner && !gives_way {
                return Err(already_exists::<T>(self, key));
            }
            if is_same(&before, &object, author) {
                difference.unchanged += 1;
                continue;
            }
            object.check()?;
            if gives_way {
                self.remove_restricted_referrers((T::KIND, key), &mut difference.changes);
            } else {
                self.check_may_change(&before, author)?;
            }
            let entry = self.new_entry(object, author)?;
            self.insert(entry);
            difference.push::<T>(Operation::Replace, key);
        }
        Ok(())
    }

    /// Deletes the owner's objects that are not in the new policy.
    fn delete_undesired<T: Object>(
        &mut self,
        desired: &BTreeSet<Uuid>,
        author: &Author,
        difference: &mut Difference,
    ) -> Result<(), Error> {
        let gone: Vec<Uuid> = T::table(self)
            .iter()
            .filter(|(key, entry)| {
                let author = (&author.owner, author.uid);
                (&entry.author.owner, entry.author.uid) == author && !desired.contains(*key)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.delete_with_referrers::<T>(key, author, &mut difference.changes)?;
            difference.push::<T>(Operation::Remove, key);
        }
        Ok(())
    }

    /// Checks what only the whole set can violate: limits, names, and references to replaced objects.
    fn check_whole(
        &self,
        replaced: &BTreeSet<(ObjectKind, Uuid)>,
        author: &Author,
    ) -> Result<(), Error> {
        ObjectKind::Provider.check_count(self.providers.len())?;
        ObjectKind::Sublayer.check_count(self.sublayers.len())?;
        ObjectKind::Service.check_count(self.services.len())?;
        ObjectKind::Filter.check_count(self.filters.len())?;
        self.check_share::<Provider>(author, None)?;
        self.check_share::<Sublayer>(author, None)?;
        self.check_share::<Service>(author, None)?;
        self.check_share::<Filter>(author, None)?;
        self.entries::<Service>()
            .try_for_each(|entry| self.check_name(&entry.object, &entry.author))?;
        if replaced.is_empty() {
            return Ok(());
        }
        self.check_references_to::<Sublayer>(replaced)?;
        self.check_references_to::<Service>(replaced)?;
        self.check_references_to::<Filter>(replaced)
    }

    /// Checks the objects of a kind that refer to one of the replaced objects.
    fn check_references_to<T: Object>(
        &self,
        replaced: &BTreeSet<(ObjectKind, Uuid)>,
    ) -> Result<(), Error> {
        let mut concerned = self.referrers::<T>(replaced);
        concerned.try_for_each(|entry| self.check_references(entry))
    }

    /// Deletes the filters of restricted authors that no longer fit the objects that were replaced,
    /// so that they do not keep another author from replacing them. Restricted authors' other
    /// objects refer only to their own providers.
    fn remove_misfits(
        &mut self,
        replaced: &BTreeSet<(ObjectKind, Uuid)>,
        difference: &mut Difference,
    ) {
        let misfits: Vec<Uuid> = self
            .referrers::<Filter>(replaced)
            .filter(|entry| entry.author.is_restricted() && self.check_references(entry).is_err())
            .map(|entry| entry.object.identity.key)
            .collect();
        for key in misfits {
            self.remove::<Filter>(key);
            difference.push::<Filter>(Operation::Remove, key);
        }
    }

    /// The entries of a kind that refer to one of these objects.
    fn referrers<T: Object>(
        &self,
        to: &BTreeSet<(ObjectKind, Uuid)>,
    ) -> impl Iterator<Item = &Arc<ObjectEntry<T>>> {
        self.entries::<T>().filter(|entry| {
            let mut references = entry.object.references().into_iter().flatten();
            references.any(|reference| to.contains(&reference))
        })
    }
}

/// Checks the name of the owner of a policy. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
pub fn check_owner(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::new(
            Code::NullDisplayName,
            "a policy needs the name of its owner",
        ));
    }
    if name.len() > NAME_SIZE_MAX || name.chars().any(char::is_control) {
        return Err(Error::new(
            Code::OutOfBounds,
            format!(
                "the name of an owner can have at most {NAME_SIZE_MAX} bytes and no control characters"
            ),
        ));
    }
    Ok(())
}

/// Gives a key to each object without one, and returns all keys.
fn set_keys<T: Object>(objects: &mut [T], owner: &str) -> Result<BTreeSet<Uuid>, Error> {
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
                    "two {}s of the policy have the same key or name; one of them is {:?}",
                    T::KIND.name(),
                    identity.name
                ),
            ));
        }
    }
    Ok(keys)
}

/// True if the entry is already as the policy has it.
fn is_same<T: Object>(before: &ObjectEntry<T>, object: &T, author: &Author) -> bool {
    let Ok(lifetime) = author.lifetime(object.lifetime(), T::KIND) else {
        return false;
    };
    if before.author != *author || before.object.lifetime() != lifetime {
        return false;
    }
    let mut object = object.clone();
    *object.lifetime_mut() = lifetime;
    object.set_id(before.object.id());
    object.restrict(author.only_user());
    object == before.object
}
