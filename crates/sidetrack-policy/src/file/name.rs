//! Names and keys: who is who in a file.

use std::collections::HashMap;
use std::ops::Range;

use uuid::Uuid;

use super::entry::Text;
use super::fault::Mark;
use crate::{Code, Identity, Lifetime, Listing, SUBLAYER_UNIVERSAL};

/// What the built-in sublayer is called in a file.
const UNIVERSAL: &str = "universal";
/// Names among which a misspelt one is looked for.
const CANDIDATES_MAX: usize = 10_000;

/// A kind of object that others refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Provider,
    Sublayer,
    Service,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Sublayer => "sublayer",
            Self::Service => "service",
        }
    }

    fn missing(self) -> Code {
        match self {
            Self::Provider => Code::ProviderNotFound,
            Self::Sublayer => Code::SublayerNotFound,
            Self::Service => Code::CalloutNotFound,
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy)]
struct Meaning {
    key: Uuid,
    lifetime: Lifetime,
    /// More than one object outside of the file has the name.
    unclear: bool,
}

/// All objects that may be referred to.
#[derive(Default)]
pub(super) struct Names {
    own: HashMap<(Kind, String), Meaning>,
    others: HashMap<(Kind, String), Meaning>,
    lifetimes: HashMap<Uuid, Lifetime>,
}

impl Names {
    /// Those outside of the file, but for those that its owner applied: they are the file's, or go.
    pub(super) fn outside(others: &Listing, owner: &str) -> Self {
        let mut names = Self::default();
        for one in &others.providers {
            names.add_other(Kind::Provider, &one.identity, one.lifetime, owner);
        }
        for one in &others.sublayers {
            names.add_other(Kind::Sublayer, &one.identity, one.lifetime, owner);
        }
        for one in &others.services {
            names.add_other(Kind::Service, &one.identity, one.lifetime, owner);
        }
        names
    }

    fn add_other(&mut self, kind: Kind, identity: &Identity, lifetime: Lifetime, owner: &str) {
        if identity.key == Identity::applied_key(owner, kind.name(), &identity.name) {
            return;
        }
        let meaning = Meaning {
            key: identity.key,
            lifetime,
            unclear: false,
        };
        self.lifetimes.insert(identity.key, lifetime);
        self.others
            .entry((kind, identity.name.clone()))
            .and_modify(|found| found.unclear |= found.key != identity.key)
            .or_insert(meaning);
    }

    /// One of the file's. A second of the same name or key is refused elsewhere, by its key.
    pub(super) fn add(&mut self, kind: Kind, name: &str, key: Uuid, lifetime: Lifetime) {
        let meaning = Meaning {
            key,
            lifetime,
            unclear: false,
        };
        self.lifetimes.insert(key, lifetime);
        self.own.insert((kind, name.to_owned()), meaning);
    }

    /// The key that a name or a key stands for. `lifetime` is of the object that refers.
    pub(super) fn resolve(
        &self,
        kind: Kind,
        reference: &Text<'_>,
        lifetime: Lifetime,
    ) -> Result<Uuid, Mark> {
        let name = kind.name();
        let Text { text, span } = reference;
        let meaning = self.find(kind, reference)?;
        if endures(meaning.lifetime) >= endures(lifetime) {
            return Ok(meaning.key);
        }
        let message = format!(
            "the {name} {text:?} is {}, and may go before this, which is {lifetime}",
            meaning.lifetime
        );
        Err(Mark::new(span.clone(), message)
            .code(Code::LifetimeMismatch)
            .advice(format!("make the {name} as lasting")))
    }

    fn find(&self, kind: Kind, reference: &Text<'_>) -> Result<Meaning, Mark> {
        let Text { text, span } = reference;
        let name = (kind, (*text).to_owned());
        if let Some(meaning) = self.own.get(&name) {
            return Ok(*meaning);
        }
        match (self.others.get(&name), text.parse::<Uuid>()) {
            (Some(meaning), _) if meaning.unclear => {
                let message = format!("more than one {} is called {text:?}", kind.name());
                Err(Mark::new(span.clone(), message)
                    .code(Code::InvalidParameter)
                    .advice("give its key instead"))
            }
            (Some(meaning), _) => Ok(*meaning),
            _ if kind == Kind::Sublayer && *text == UNIVERSAL => Ok(Meaning {
                key: SUBLAYER_UNIVERSAL,
                lifetime: Lifetime::BuiltIn,
                unclear: false,
            }),
            // Whoever takes the objects knows whether it is there.
            (None, Ok(key)) => Ok(Meaning {
                key,
                lifetime: *self.lifetimes.get(&key).unwrap_or(&Lifetime::BuiltIn),
                unclear: false,
            }),
            (None, Err(_)) => Err(self.missing(kind, text, span.clone())),
        }
    }

    fn missing(&self, kind: Kind, text: &str, span: Range<usize>) -> Mark {
        let names = self.own.keys().chain(self.others.keys());
        let same_kind = names.filter(|(each, _)| *each == kind);
        let mut candidates: Vec<_> = same_kind
            .map(|(_, name)| name.as_str())
            .take(CANDIDATES_MAX)
            .collect();
        candidates.sort_unstable(); // the same advice each time
        Mark::new(span, format!("there is no {} {text:?}", kind.name()))
            .code(kind.missing())
            .near(text, candidates)
    }
}

/// By how much a lifetime outlasts others. Boot-time objects are kept as persistent ones are.
fn endures(lifetime: Lifetime) -> Lifetime {
    match lifetime {
        Lifetime::BootTime => Lifetime::Persistent,
        other => other,
    }
}
