//! Resolving the names and keys by which a file's objects refer to others.

use std::collections::HashMap;
use std::ops::Range;

use sidetrack_policy::{Code, Identity, Lifetime, SUBLAYER_UNIVERSAL, Uuid};

use crate::error::SpannedError;
use crate::listing::Listing;
use crate::table::TomlText;

/// Name of the built-in sublayer in files.
const UNIVERSAL: &str = "universal";
/// Greatest number of names that are searched for one that resembles an unknown name.
const CANDIDATES_MAX: usize = 10_000;

/// The kind of an object to which others can refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NameKind {
    Provider,
    Sublayer,
    Service,
}

impl NameKind {
    /// The kind with this name; none for filters, to which nothing refers.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Provider, Self::Sublayer, Self::Service]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Sublayer => "sublayer",
            Self::Service => "service",
        }
    }

    fn not_found_code(self) -> Code {
        match self {
            Self::Provider => Code::ProviderNotFound,
            Self::Sublayer => Code::SublayerNotFound,
            Self::Service => Code::CalloutNotFound,
        }
    }
}

/// The object that has a name.
#[derive(Clone, Copy)]
struct NamedObject {
    key: Uuid,
    lifetime: Lifetime,
    /// True if several objects in force, which are not in the file, have the name.
    ambiguous: bool,
}

/// All objects to which the file can refer.
#[derive(Default)]
pub(crate) struct Names {
    /// Objects of the file.
    own: HashMap<(NameKind, String), NamedObject>,
    /// Objects in force.
    others: HashMap<(NameKind, String), NamedObject>,
    /// Lifetimes of all these objects by key.
    lifetimes: HashMap<Uuid, Lifetime>,
}

impl Names {
    /// The objects in force, except those that the file's owner applied: the file contains them, or
    /// applying it deletes them.
    pub(crate) fn in_force(others: &Listing, owner: &str) -> Self {
        let mut names = Self::default();
        for one in &others.providers {
            names.add_other(NameKind::Provider, &one.identity, one.lifetime, owner);
        }
        for one in &others.sublayers {
            names.add_other(NameKind::Sublayer, &one.identity, one.lifetime, owner);
        }
        for one in &others.services {
            names.add_other(NameKind::Service, &one.identity, one.lifetime, owner);
        }
        names
    }

    fn add_other(&mut self, kind: NameKind, identity: &Identity, lifetime: Lifetime, owner: &str) {
        if identity.key == Identity::applied_key(owner, kind.name(), &identity.name) {
            return;
        }
        let object = NamedObject {
            key: identity.key,
            lifetime,
            ambiguous: false,
        };
        self.lifetimes.insert(identity.key, lifetime);
        self.others
            .entry((kind, identity.name.clone()))
            .and_modify(|found| found.ambiguous |= found.key != identity.key)
            .or_insert(object);
    }

    /// Adds an object of the file. A second one with the same name or key is refused elsewhere, by
    /// its key.
    pub(crate) fn add(&mut self, kind: NameKind, name: &str, key: Uuid, lifetime: Lifetime) {
        let object = NamedObject {
            key,
            lifetime,
            ambiguous: false,
        };
        self.lifetimes.insert(key, lifetime);
        self.own.insert((kind, name.to_owned()), object);
    }

    /// Adds an object of the file that is invalid, unless an object of the file has its name. Objects
    /// of any lifetime can refer to it.
    pub(crate) fn add_invalid(&mut self, kind: NameKind, name: &str, key: Uuid) {
        let object = NamedObject {
            key,
            lifetime: Lifetime::BuiltIn,
            ambiguous: false,
        };
        self.own.entry((kind, name.to_owned())).or_insert(object);
    }

    /// The key of the object to which a name or key refers. `lifetime` is that of the referring
    /// object.
    pub(crate) fn resolve(
        &self,
        kind: NameKind,
        reference: &TomlText<'_>,
        lifetime: Lifetime,
    ) -> Result<Uuid, SpannedError> {
        let name = kind.name();
        let TomlText { text, span } = reference;
        let object = self.find(kind, reference)?;
        if object.lifetime.duration() >= lifetime.duration() {
            return Ok(object.key);
        }
        let message = format!(
            "the {name} {text:?} is {}, so it may not last as long as this object, which is {lifetime}",
            object.lifetime
        );
        Err(SpannedError::new(span.clone(), message)
            .code(Code::LifetimeMismatch)
            .advice(format!("make the {name} {}", lifetime.duration())))
    }

    fn find(&self, kind: NameKind, reference: &TomlText<'_>) -> Result<NamedObject, SpannedError> {
        let TomlText { text, span } = reference;
        let name = (kind, (*text).to_owned());
        if let Some(object) = self.own.get(&name) {
            return Ok(*object);
        }
        match (self.others.get(&name), text.parse::<Uuid>()) {
            (Some(object), _) if object.ambiguous => {
                let message = format!("more than one {} is named {text:?}", kind.name());
                Err(SpannedError::new(span.clone(), message)
                    .code(Code::InvalidParameter)
                    .advice("write its key instead"))
            }
            (Some(object), _) => Ok(*object),
            _ if kind == NameKind::Sublayer && *text == UNIVERSAL => Ok(NamedObject {
                key: SUBLAYER_UNIVERSAL,
                lifetime: Lifetime::BuiltIn,
                ambiguous: false,
            }),
            // Whether an object with this key exists is checked when the objects are added.
            (None, Ok(key)) => Ok(NamedObject {
                key,
                lifetime: *self.lifetimes.get(&key).unwrap_or(&Lifetime::BuiltIn),
                ambiguous: false,
            }),
            (None, Err(_)) => Err(self.not_found(kind, text, span.clone())),
        }
    }

    fn not_found(&self, kind: NameKind, text: &str, span: Range<usize>) -> SpannedError {
        let names = self.own.keys().chain(self.others.keys());
        let same_kind = names.filter(|(each, _)| *each == kind);
        let mut candidates: Vec<_> = same_kind
            .map(|(_, name)| name.as_str())
            .take(CANDIDATES_MAX)
            .collect();
        candidates.sort_unstable(); // so that the advice is always the same
        SpannedError::new(span, format!("there is no {} {text:?}", kind.name()))
            .code(kind.not_found_code())
            .near(text, candidates)
    }
}
