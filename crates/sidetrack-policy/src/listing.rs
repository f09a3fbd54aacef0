//! Objects as lists: what a file says, or what a daemon lists.

use serde::{Deserialize, Serialize};

use crate::property::AnyObject;
use crate::{Filter, Provider, Service, Sublayer};

/// Objects of every kind, each unique by its key within its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Who owns the rest.
    pub providers: Vec<Provider>,
    /// Groups of filters.
    pub sublayers: Vec<Sublayer>,
    /// Where filters redirect to.
    pub services: Vec<Service>,
    /// The rules.
    pub filters: Vec<Filter>,
}

impl Listing {
    /// Each, in the order in which they may be added.
    pub fn all(&self) -> impl Iterator<Item = AnyObject<'_>> {
        let providers = self.providers.iter().map(AnyObject::Provider);
        providers
            .chain(self.sublayers.iter().map(AnyObject::Sublayer))
            .chain(self.services.iter().map(AnyObject::Service))
            .chain(self.filters.iter().map(AnyObject::Filter))
    }

    /// How many, of all kinds.
    pub fn len(&self) -> usize {
        self.providers.len() + self.sublayers.len() + self.services.len() + self.filters.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
