//! An object in a set, and whose it is.

use std::fmt::Debug;
use std::sync::Arc;

use super::{FILTERS_MAX, Objects, PROVIDERS_MAX, SERVICES_MAX, SUBLAYERS_MAX, Table};
use crate::object::Uuid;
use crate::{Code, Error, Filter, Identity, Lifetime, Provider, Service, Sublayer};

/// An object, and who put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// What it is.
    pub object: T,
    /// Whose it is.
    pub author: Author,
}

/// Who changes something. The default is root, singly, in a session that is not dynamic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// The session, if it is a dynamic one: its objects go with it.
    pub session: Option<u64>,
    /// The user.
    pub uid: u32,
    /// Of an applied policy: its owner's name.
    pub owner: Option<Arc<str>>,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Provider,
    Sublayer,
    Service,
    Filter,
}

/// What the kinds of objects have in common.
pub trait Object: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Which it is.
    const KIND: Kind;
    /// Key and names.
    fn identity(&self) -> &Identity;
    /// Key and names.
    fn identity_mut(&mut self) -> &mut Identity;
    /// How long it lives.
    fn lifetime(&self) -> Lifetime;
    /// How long it lives.
    fn lifetime_mut(&mut self) -> &mut Lifetime;
    /// Whose it is. A provider is nobody's.
    fn provider(&self) -> Option<Uuid>;
    /// Whether it is right by itself.
    fn check(&self) -> Result<(), Error>;
    /// What must exist for it.
    fn references(&self) -> [Option<(Kind, Uuid)>; 3] {
        [self.provider().map(|key| (Kind::Provider, key)), None, None]
    }
    /// Its number at run time; only filters have one.
    fn id(&self) -> u64 {
        0
    }
    /// Gives it its number.
    fn set_id(&mut self, _id: u64) {}
    #[doc(hidden)]
    fn table(objects: &Objects) -> &Table<Self>;
    #[doc(hidden)]
    fn table_mut(objects: &mut Objects) -> &mut Table<Self>;
}

impl Author {
    /// Whether every object is its to change.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The lifetime an object gets. Errors: FWP_E_BUILTIN_OBJECT, …DYNAMIC_SESSION_IN_PROGRESS,
    /// …INVALID_FLAGS.
    pub(super) fn lifetime(&self, asked: Lifetime, kind: Kind) -> Result<Lifetime, Error> {
        match (asked, self.session) {
            (Lifetime::BuiltIn, _) => Err(Error::new(
                Code::BuiltinObject,
                "built-in objects cannot be added",
            )),
            (Lifetime::BootTime, _) if kind != Kind::Filter => Err(Error::new(
                Code::InvalidFlags,
                format!("a {} is not boot-time; only filters are", kind.name()),
            )),
            (Lifetime::Persistent | Lifetime::BootTime, Some(_)) => Err(Error::new(
                Code::DynamicSessionInProgress,
                format!("a dynamic session cannot add {asked} objects"),
            )),
            (_, Some(_)) => Ok(Lifetime::Dynamic),
            (Lifetime::Dynamic, None) => Err(Error::new(
                Code::LifetimeMismatch,
                "only a dynamic session has dynamic objects",
            )),
            (asked, None) => Ok(asked),
        }
    }
}

impl Kind {
    /// As in errors and policy files.
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
        Error::new(code, format!("there is no {} of key {key}", self.name()))
    }

    /// Whether there may be so many.
    pub(super) fn check_room(self, count: usize) -> Result<(), Error> {
        let (most, code) = match self {
            Self::Provider => (PROVIDERS_MAX, Code::OutOfBounds),
            Self::Sublayer => (SUBLAYERS_MAX, Code::TooManySublayers),
            Self::Service => (SERVICES_MAX, Code::TooManyCallouts),
            Self::Filter => (FILTERS_MAX, Code::OutOfBounds),
        };
        if count <= most {
            return Ok(());
        }
        Err(Error::new(
            code,
            format!("there are at most {most} {}s at once", self.name()),
        ))
    }
}

impl<T: Object> Entry<T> {
    /// For errors.
    pub(super) fn title(&self) -> String {
        format!("{} {:?}", T::KIND.name(), self.object.identity().name)
    }

    /// Whether it may refer to another. Errors: FWP_E_LIFETIME_MISMATCH.
    pub(super) fn check_reference<U: Object>(&self, to: &Entry<U>) -> Result<(), Error> {
        let mine = self.object.lifetime();
        let others = to.object.lifetime();
        let mismatch = |why: &str| {
            Err(Error::new(
                Code::LifetimeMismatch,
                format!("{} cannot refer to {}: {why}", self.title(), to.title()),
            ))
        };
        if stored(others) < stored(mine) {
            return mismatch(&format!("{others} objects live shorter than {mine} ones"));
        }
        if others == Lifetime::Dynamic && self.author.session != to.author.session {
            return mismatch("it is another session's");
        }
        let kept_apart = stored(mine) == Lifetime::Persistent && others != Lifetime::BuiltIn;
        let owner = to.object.provider();
        if kept_apart && owner.is_some() && owner != self.object.provider() {
            return mismatch("it is another provider's, which may not be loaded at the next start");
        }
        Ok(())
    }
}

/// Boot-time filters are kept as long as persistent objects are.
fn stored(lifetime: Lifetime) -> Lifetime {
    match lifetime {
        Lifetime::BootTime => Lifetime::Persistent,
        other => other,
    }
}

macro_rules! object {
    ($type:ident, $table:ident, |$self:ident| $provider:expr $(, $more:item)*) => {
        impl Object for $type {
            const KIND: Kind = Kind::$type;

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
                $type::check(self)
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
object!(Service, services, |service| service.provider);
object!(
    Filter,
    filters,
    |filter| filter.provider,
    fn references(&self) -> [Option<(Kind, Uuid)>; 3] {
        [
            self.provider.map(|key| (Kind::Provider, key)),
            Some((Kind::Sublayer, self.sublayer)),
            self.action.service().map(|key| (Kind::Service, key)),
        ]
    },
    fn id(&self) -> u64 {
        self.id
    },
    fn set_id(&mut self, id: u64) {
        self.id = id;
    }
);
