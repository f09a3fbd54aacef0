//! Objects as one list for each kind, as a policy file has them and the daemon lists them.

use serde::Serialize;
use sidetrack_policy::{Filter, Provider, Service, Sublayer};

use crate::property::AnyObject;

/// Objects of every kind. Within its kind, each object's key is unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Providers, to which the other objects belong.
    pub providers: Vec<Provider>,
    /// Sublayers, which group filters.
    pub sublayers: Vec<Sublayer>,
    /// Services, to which filters redirect.
    pub services: Vec<Service>,
    /// Filters.
    pub filters: Vec<Filter>,
}

impl Listing {
    /// Every object, in an order in which they can be added: an object comes after those it refers
    /// to.
    pub fn all(&self) -> impl Iterator<Item = AnyObject<'_>> {
        let providers = self.providers.iter().map(AnyObject::Provider);
        providers
            .chain(self.sublayers.iter().map(AnyObject::Sublayer))
            .chain(self.services.iter().map(AnyObject::Service))
            .chain(self.filters.iter().map(AnyObject::Filter))
    }
}
