//! What each author may do: which objects it may change, name, and refer to.

use std::sync::Arc;

use super::entry::{Object, ObjectEntry, ObjectKind};
use super::{Author, Change, Objects, Operation};
use crate::object::Uuid;
use crate::{Code, Error, Filter, Lifetime, Provider, RecordsMode, Service, Sublayer};

/// The part of each kind of objects that restricted authors may have together: one in this many of
/// the greatest number. The rest is for other authors, so that members cannot keep root from adding
/// objects.
pub const RESTRICTED_SHARE: usize = 2;
/// Greatest number of bytes that the filters of restricted authors take together.
pub const RESTRICTED_BYTES_MAX: usize = 16 << 20;

impl Objects {
    /// The service that a user means by a name: the user's own, or else root's. Other users' services
    /// do not count, so nobody can take the place of another user's service by its name.
    ///
    /// Errors: FWP_E_CALLOUT_NOT_FOUND.
    pub fn service_named(&self, name: &str, uid: u32) -> Result<&Arc<ObjectEntry<Service>>, Error> {
        let named = |uid| self.find_service(name, uid);
        named(uid).or_else(|| named(0)).ok_or_else(|| {
            Error::new(
                Code::CalloutNotFound,
                format!("there is no service named {name:?} of user {uid} or of root"),
            )
        })
    }

    fn find_service(&self, name: &str, uid: u32) -> Option<&Arc<ObjectEntry<Service>>> {
        let mut services = self.services.values();
        services.find(|entry| entry.author.uid == uid && entry.object.identity.name == name)
    }

    /// Checks that no other service of the same user has the name of this one.
    pub(super) fn check_name<T: Object>(&self, object: &T, author: &Author) -> Result<(), Error> {
        let identity = object.identity();
        let is_other = |other: &&Arc<ObjectEntry<Service>>| {
            T::KIND == ObjectKind::Service && other.object.identity.key != identity.key
        };
        match self
            .find_service(&identity.name, author.uid)
            .filter(is_other)
        {
            None => Ok(()),
            Some(_) => Err(Error::new(
                Code::AlreadyExists,
                format!(
                    "there is another service named {:?}; choose another name",
                    identity.name
                ),
            )),
        }
    }

    /// The entry of a new object, ready to be inserted: with its lifetime and, if it is a filter,
    /// its id and its restriction. Checks what the object refers to, and whether the author may add
    /// it.
    pub(super) fn new_entry<T: Object>(
        &mut self,
        mut object: T,
        author: &Author,
    ) -> Result<ObjectEntry<T>, Error> {
        *object.lifetime_mut() = author.lifetime(object.lifetime(), T::KIND)?;
        object.restrict(author.only_user());
        if author.is_restricted() {
            object.check_restricted()?;
        }
        let mut entry = ObjectEntry {
            object,
            author: author.clone(),
        };
        self.check_may_add(&entry)?;
        self.check_references(&entry)?;
        if T::KIND == ObjectKind::Filter {
            self.last_id += 1;
            entry.object.set_id(self.last_id);
        }
        Ok(entry)
    }

    /// Checks that an author may delete or replace an entry.
    pub(super) fn check_may_change<T: Object>(
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

    /// Checks that an entry may refer to the objects to which it refers.
    pub(super) fn check_references<T: Object>(&self, entry: &ObjectEntry<T>) -> Result<(), Error> {
        let mut references = entry.object.references().into_iter().flatten();
        references.try_for_each(|(kind, key)| match kind {
            ObjectKind::Provider => entry.check_reference(self.entry::<Provider>(key)?),
            ObjectKind::Sublayer => entry.check_reference(self.entry::<Sublayer>(key)?),
            ObjectKind::Service => {
                let service = self.entry::<Service>(key)?;
                entry.check_reference(service)?;
                check_redirect(entry, service)
            }
            ObjectKind::Filter => entry.check_reference(self.entry::<Filter>(key)?),
        })
    }

    /// Checks that the restricted authors together have at most their share of a kind, with `more`.
    pub(super) fn check_share<T: Object>(
        &self,
        author: &Author,
        more: Option<&T>,
    ) -> Result<(), Error> {
        if !author.is_restricted() {
            return Ok(());
        }
        let (most, code) = T::KIND.limit();
        let most = most / RESTRICTED_SHARE;
        let (count, bytes) = self.restricted.get(&T::KIND).copied().unwrap_or_default();
        if bytes + more.map_or(0, Object::size) > RESTRICTED_BYTES_MAX {
            return Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "the filters of the members of access.write_group can have at most {} MiB together; \
                     delete some first",
                    RESTRICTED_BYTES_MAX >> 20
                ),
            ));
        }
        if count + usize::from(more.is_some()) <= most {
            return Ok(());
        }
        Err(Error::new(
            code,
            format!(
                "the members of access.write_group can have at most {most} {}s together; delete some first",
                T::KIND.name()
            ),
        ))
    }

    /// True if the entry gives way to an object of this author that has the same key: a restricted
    /// author must not keep others from adding their objects.
    pub(super) fn gives_way<T: Object>(entry: &ObjectEntry<T>, author: &Author) -> bool {
        entry.author.is_restricted() && !author.is_restricted()
    }

    /// Number of objects of restricted authors that refer to an object.
    pub(super) fn count_restricted_referrers(&self, to: (ObjectKind, Uuid)) -> usize {
        self.restricted_referrers::<Sublayer>(to).len()
            + self.restricted_referrers::<Service>(to).len()
            + self.restricted_referrers::<Filter>(to).len()
    }

    /// Deletes the objects of restricted authors that refer to an object, and those that refer to
    /// them, so that these authors cannot keep others from deleting or replacing their objects.
    pub(super) fn remove_restricted_referrers(
        &mut self,
        to: (ObjectKind, Uuid),
        removed: &mut Vec<Change>,
    ) {
        self.remove_referrers_of_kind::<Filter>(to, removed);
        self.remove_referrers_of_kind::<Service>(to, removed);
        self.remove_referrers_of_kind::<Sublayer>(to, removed);
    }

    fn remove_referrers_of_kind<T: Object>(
        &mut self,
        to: (ObjectKind, Uuid),
        removed: &mut Vec<Change>,
    ) {
        for key in self.restricted_referrers::<T>(to) {
            self.remove_restricted_referrers((T::KIND, key), removed);
            self.remove::<T>(key);
            removed.push(Change {
                operation: Operation::Remove,
                kind: T::KIND,
                key,
            });
        }
    }

    fn restricted_referrers<T: Object>(&self, to: (ObjectKind, Uuid)) -> Vec<Uuid> {
        if !self.references.contains_key(&to) {
            return Vec::new();
        }
        let entries = self.entries::<T>().filter(|entry| {
            entry.author.is_restricted() && entry.object.references().contains(&Some(to))
        });
        entries.map(|entry| entry.object.identity().key).collect()
    }
}

/// Checks what a restricted author's filter may do with a service of another user. Its connections
/// may go through the service, but it may give the proxy no context, which the proxy could take for
/// that of the service's author. Nor may the service be a legacy one: behind it, the connection
/// would count as the proxy's.
fn check_redirect<T: Object>(
    entry: &ObjectEntry<T>,
    service: &ObjectEntry<Service>,
) -> Result<(), Error> {
    if !entry.author.is_restricted() || entry.author.uid == service.author.uid {
        return Ok(());
    }
    let reason = if entry.object.own_context().is_some() {
        "and set a context, which only the service's user may set"
    } else if service.object.records == RecordsMode::Legacy {
        "because its records are \"legacy\""
    } else {
        return Ok(());
    };
    Err(Error::new(
        Code::WrongSession,
        format!(
            "{} of user {} cannot redirect to {} of user {} {reason}",
            entry.title(),
            entry.author.uid,
            service.title(),
            service.author.uid
        ),
    ))
}
