//! The entries of a set: objects with their authors.

use std::fmt::Debug;

use super::author::Author;
use super::{FILTERS_MAX, Objects, PROVIDERS_MAX, SERVICES_MAX, SUBLAYERS_MAX, Table};
use crate::object::Uuid;
use crate::{
    Code, Condition, Error, Filter, Identity, Lifetime, Provider, RedirectContext, Service,
    Sublayer, Value,
};

/// An object of a set, with its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry<T> {
    /// The object.
    pub object: T,
    /// The author that added the object.
    pub author: Author,
}

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum ObjectKind {
    Provider,
    Sublayer,
    Service,
    Filter,
}

/// What the kinds of objects have in common.
pub trait Object: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Kind of the object.
    const KIND: ObjectKind;
    /// Key and names of the object.
    fn identity(&self) -> &Identity;
    /// Key and names of the object, to change them.
    fn identity_mut(&mut self) -> &mut Identity;
    /// How long the object exists.
    fn lifetime(&self) -> Lifetime;
    /// How long the object exists, to change it.
    fn lifetime_mut(&mut self) -> &mut Lifetime;
    /// Key of the provider to which the object belongs, if any. A provider belongs to none.
    fn provider(&self) -> Option<Uuid>;
    /// Checks the object on its own.
    fn check(&self) -> Result<(), Error>;
    /// Kinds and keys of the objects to which it refers, and which must exist.
    fn references(&self) -> [Option<(ObjectKind, Uuid)>; 3] {
        [
            self.provider().map(|key| (ObjectKind::Provider, key)),
            None,
            None,
        ]
    }
    /// The id of a filter; 0 for other objects.
    fn id(&self) -> u64 {
        0
    }
    /// About how many bytes the object takes in memory, if it is a filter; 0 for other objects, whose number
    /// is limited enough.
    fn size(&self) -> usize {
        0
    }
    /// Sets the id of a filter; does nothing for other objects.
    fn set_id(&mut self, _id: u64) {}
    /// Restricts a filter to the connections of one user, or to no user; does nothing for other
    /// objects.
    fn restrict(&mut self, _only_user: Option<u32>) {}
    /// Checks that a restricted author may add the object. Errors: FWP_E_NEVER_MATCH for a filter that
    /// cannot match connections of its user, …WRONG_SESSION for a service whose own traffic would be
    /// exempt from other users' filters.
    fn check_restricted(&self) -> Result<(), Error> {
        Ok(())
    }
    /// The redirect context that a filter sets; none for other objects.
    fn own_context(&self) -> Option<&RedirectContext> {
        None
    }
    #[doc(hidden)]
    fn table(objects: &Objects) -> &Table<Self>;
    #[doc(hidden)]
    fn table_mut(objects: &mut Objects) -> &mut Table<Self>;
}

impl Author {
    /// The lifetime that an object of this author gets if it requests one: dynamic in a dynamic
    /// session.
    ///
    /// Errors: FWP_E_BUILTIN_OBJECT, …DYNAMIC_SESSION_IN_PROGRESS, …INVALID_FLAGS,
    /// …LIFETIME_MISMATCH.
    pub(super) fn lifetime(
        &self,
        requested: Lifetime,
        kind: ObjectKind,
    ) -> Result<Lifetime, Error> {
        match (requested, self.session) {
            (Lifetime::BuiltIn, _) => Err(Error::new(
                Code::BuiltinObject,
                "built-in objects cannot be added",
            )),
            (Lifetime::BootTime, _) if kind != ObjectKind::Filter => Err(Error::new(
                Code::InvalidFlags,
                format!("a {} cannot be boot-time; only a filter can", kind.name()),
            )),
            (Lifetime::Persistent | Lifetime::BootTime, Some(_)) => Err(Error::new(
                Code::DynamicSessionInProgress,
                format!(
                    "a dynamic session cannot add {requested} objects; use a session that is not dynamic"
                ),
            )),
            (_, Some(_)) => Ok(Lifetime::Dynamic),
            (Lifetime::Dynamic, None) => Err(Error::new(
                Code::LifetimeMismatch,
                "only a dynamic session can add dynamic objects",
            )),
            (requested, None) => Ok(requested),
        }
    }
}

impl ObjectKind {
    /// Name in messages and policy files, for example `sublayer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Sublayer => "sublayer",
            Self::Service => "service",
            Self::Filter => "filter",
        }
    }

    pub(super) fn not_found(self, key: Uuid) -> Error {
        let code = match self {
            Self::Provider => Code::ProviderNotFound,
            Self::Sublayer => Code::SublayerNotFound,
            Self::Service => Code::CalloutNotFound,
            Self::Filter => Code::FilterNotFound,
        };
        Error::new(
            code,
            format!("there is no {} with the key {key}", self.name()),
        )
    }

    /// Greatest number of objects of the kind in a set, and the error beyond it.
    pub(super) fn limit(self) -> (usize, Code) {
        match self {
            Self::Provider => (PROVIDERS_MAX, Code::OutOfBounds),
            Self::Sublayer => (SUBLAYERS_MAX, Code::TooManySublayers),
            Self::Service => (SERVICES_MAX, Code::TooManyCallouts),
            Self::Filter => (FILTERS_MAX, Code::OutOfBounds),
        }
    }

    /// Checks that a set can have this number of objects of the kind.
    pub fn check_count(self, count: usize) -> Result<(), Error> {
        let (most, code) = self.limit();
        if count <= most {
            return Ok(());
        }
        Err(Error::new(
            code,
            format!(
                "there can be at most {most} {}s at a time; delete some first",
                self.name()
            ),
        ))
    }
}

impl<T: Object> ObjectEntry<T> {
    /// Kind and name, for messages.
    pub(super) fn title(&self) -> String {
        format!("{} {:?}", T::KIND.name(), self.object.identity().name)
    }

    /// Checks that the object may refer to another. Errors: FWP_E_WRONG_SESSION, …LIFETIME_MISMATCH.
    pub(super) fn check_reference<U: Object>(&self, to: &ObjectEntry<U>) -> Result<(), Error> {
        if !self.author.may_refer_to(&to.author) {
            return Err(Error::new(
                Code::WrongSession,
                format!(
                    "{} of user {} cannot refer to {} of user {}: filters refer to their user's own objects \
                     and to those of root, and root's also to those of the members of access.host_group",
                    self.title(),
                    self.author.uid,
                    to.title(),
                    to.author.uid
                ),
            ));
        }
        let own_lifetime = self.object.lifetime();
        let lifetime = to.object.lifetime();
        let mismatch = |reason: &str| {
            Err(Error::new(
                Code::LifetimeMismatch,
                format!("{} cannot refer to {}: {reason}", self.title(), to.title()),
            ))
        };
        if lifetime.duration() < own_lifetime.duration() {
            return mismatch(&format!(
                "a {lifetime} object does not last as long as a {own_lifetime} one"
            ));
        }
        if lifetime == Lifetime::Dynamic && self.author.session != to.author.session {
            return mismatch("it belongs to another session");
        }
        let stored =
            own_lifetime.duration() == Lifetime::Persistent && lifetime != Lifetime::BuiltIn;
        let provider = to.object.provider();
        if stored && provider.is_some() && provider != self.object.provider() {
            return mismatch(
                "it belongs to another provider, and the next start of the daemon may leave that provider's objects out",
            );
        }
        Ok(())
    }
}

macro_rules! object {
    ($type:ident, $table:ident, |$self:ident| $provider:expr $(, $more:item)*) => {
        impl Object for $type {
            const KIND: ObjectKind = ObjectKind::$type;

            fn identity(&self) -> &Identity {
                &self.identity
            }

            fn identity_mut(&mut self) -> &mut Identity {
                &mut self.identity
            }

            fn lifetime(&self) -> Lifetime {
                self.lifetime
            }

            fn lifetime_mut(&mut self) -> &mut Lifetime {
                &mut self.lifetime
            }

            fn provider(&self) -> Option<Uuid> {
                let $self = self;
                $provider
            }

            fn check(&self) -> Result<(), Error> {
                Ok($type::check(self)?)
            }

            fn table(objects: &Objects) -> &Table<Self> {
                &objects.$table
            }

            fn table_mut(objects: &mut Objects) -> &mut Table<Self> {
                &mut objects.$table
            }

            $($more)*
        }
    };
}

object!(Provider, providers, |_provider| None);
object!(Sublayer, sublayers, |sublayer| sublayer.provider);
object!(
    Service,
    services,
    |service| service.provider,
    fn check_restricted(&self) -> Result<(), Error> {
        Ok(Self::check_restricted(self)?)
    }
);
object!(
    Filter,
    filters,
    |filter| filter.provider,
    fn references(&self) -> [Option<(ObjectKind, Uuid)>; 3] {
        [
            self.provider.map(|key| (ObjectKind::Provider, key)),
            Some((ObjectKind::Sublayer, self.sublayer)),
            self.action.service().map(|key| (ObjectKind::Service, key)),
        ]
    },
    fn id(&self) -> u64 {
        self.id
    },
    fn size(&self) -> usize {
        let texts = self.identity.name.len() + self.identity.description.len();
        let context = match &self.context {
            Some(RedirectContext::Fixed(bytes)) => bytes.len(),
            _ => 0,
        };
        let conditions = self.conditions.iter().map(|condition| {
            let path = match &condition.value {
                Value::Path(path) => path.len(),
                _ => 0,
            };
            size_of::<Condition>() + path
        });
        size_of::<Self>() + texts + context + conditions.sum::<usize>()
    },
    fn set_id(&mut self, id: u64) {
        self.id = id;
    },
    fn restrict(&mut self, only_user: Option<u32>) {
        self.only_user = only_user;
    },
    fn check_restricted(&self) -> Result<(), Error> {
        Ok(Self::check_restricted(self)?)
    },
    fn own_context(&self) -> Option<&RedirectContext> {
        self.context.as_ref()
    }
);
