//! Objects as the daemon lists them.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_api::{Client, key_bytes, v1};
use sidetrack_policy::property::AnyObject;
use sidetrack_policy::{Filter, Layer, Listing, Provider, Service, Sublayer, Uuid};

use crate::daemon::{lifetime, refused, whole};

/// A kind of object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Provider,
    Sublayer,
    Service,
    Filter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provider => "provider",
            Self::Sublayer => "sublayer",
            Self::Service => "service",
            Self::Filter => "filter",
        })
    }
}

/// An object, and what only the daemon knows of it.
pub(crate) enum Listed {
    Provider(Provider),
    Sublayer(Sublayer),
    Service {
        service: Service,
        listening: bool,
    },
    Filter {
        filter: Box<Filter>,
        effective_weight: u64,
        owner: String,
    },
}

impl Listed {
    pub(crate) fn object(&self) -> AnyObject<'_> {
        match self {
            Self::Provider(provider) => AnyObject::Provider(provider),
            Self::Sublayer(sublayer) => AnyObject::Sublayer(sublayer),
            Self::Service { service, .. } => AnyObject::Service(service),
            Self::Filter { filter, .. } => AnyObject::Filter(filter),
        }
    }

    pub(crate) fn key(&self) -> Uuid {
        self.object().identity().key
    }

    pub(crate) fn name(&self) -> &str {
        &self.object().identity().name
    }

    pub(crate) fn layer(&self) -> Option<Layer> {
        match self {
            Self::Filter { filter, .. } => Some(filter.layer),
            _ => None,
        }
    }

    /// For programs: the object's members, its key and names beside the others.
    pub(crate) fn json(&self) -> Result<Value> {
        let (mut value, more) = match self {
            Self::Provider(provider) => (serde_json::to_value(provider)?, json!({})),
            Self::Sublayer(sublayer) => (serde_json::to_value(sublayer)?, json!({})),
            Self::Service { service, listening } => (
                serde_json::to_value(service)?,
                json!({ "listening": listening }),
            ),
            Self::Filter {
                filter,
                effective_weight,
                owner,
            } => (
                serde_json::to_value(filter)?,
                json!({ "effective_weight": effective_weight, "owner": owner }),
            ),
        };
        let identity = value["identity"].take();
        let mut all = serde_json::Map::new();
        for part in [identity, value, more] {
            if let Value::Object(members) = part {
                all.extend(members);
            }
        }
        all.remove("identity");
        Ok(Value::Object(all))
    }
}

impl TryFrom<v1::Provider> for Listed {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Provider) -> Result<Self, Self::Error> {
        let lifetime = lifetime(wire.lifetime);
        Ok(Self::Provider(Provider {
            lifetime,
            ..wire.try_into()?
        }))
    }
}

impl TryFrom<v1::Sublayer> for Listed {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Sublayer) -> Result<Self, Self::Error> {
        let lifetime = lifetime(wire.lifetime);
        Ok(Self::Sublayer(Sublayer {
            lifetime,
            ..wire.try_into()?
        }))
    }
}

impl TryFrom<v1::Service> for Listed {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Service) -> Result<Self, Self::Error> {
        let (lifetime, listening) = (lifetime(wire.lifetime), wire.listening);
        Ok(Self::Service {
            service: Service {
                lifetime,
                ..wire.try_into()?
            },
            listening,
        })
    }
}

impl TryFrom<v1::Filter> for Listed {
    type Error = sidetrack_policy::Error;

    fn try_from(mut wire: v1::Filter) -> Result<Self, Self::Error> {
        let (lifetime, id) = (lifetime(wire.lifetime), wire.id);
        let effective_weight = wire.effective_weight;
        let owner = std::mem::take(&mut wire.owner);
        Ok(Self::Filter {
            filter: Box::new(Filter {
                lifetime,
                id,
                ..wire.try_into()?
            }),
            effective_weight,
            owner,
        })
    }
}

/// All objects of a kind, or all of a provider; `session_id` 0: what is in force.
pub(crate) async fn fetch(
    client: &mut Client,
    kind: Kind,
    session_id: u64,
    provider: Option<Uuid>,
) -> Result<Vec<Listed>> {
    let request = v1::ListRequest {
        session_id,
        provider: provider.map(key_bytes).unwrap_or_default(),
    };
    macro_rules! all {
        ($call:ident, $members:ident) => {{
            let stream = client.$call(request).await.map_err(refused)?.into_inner();
            let pieces = whole(stream).await?;
            let objects = pieces.into_iter().flat_map(|piece| piece.$members);
            objects.map(|wire| Ok(Listed::try_from(wire)?)).collect()
        }};
    }
    match kind {
        Kind::Provider => all!(list_providers, providers),
        Kind::Sublayer => all!(list_sublayers, sublayers),
        Kind::Service => all!(list_services, services),
        Kind::Filter => all!(list_filters, filters),
    }
}

/// Providers, sublayers and services: what others refer to.
pub(crate) struct Names {
    pub(crate) listing: Listing,
    names: HashMap<Uuid, String>,
}

impl Names {
    pub(crate) async fn fetch(client: &mut Client) -> Result<Self> {
        let mut listing = Listing::default();
        for kind in [Kind::Provider, Kind::Sublayer, Kind::Service] {
            for listed in fetch(client, kind, 0, None).await? {
                match listed {
                    Listed::Provider(provider) => listing.providers.push(provider),
                    Listed::Sublayer(sublayer) => listing.sublayers.push(sublayer),
                    Listed::Service { service, .. } => listing.services.push(service),
                    Listed::Filter { .. } => {}
                }
            }
        }
        Ok(Self::of(listing))
    }

    pub(crate) fn of(listing: Listing) -> Self {
        let names = listing
            .all()
            .map(|object| (object.identity().key, object.identity().name.clone()))
            .collect();
        Self { listing, names }
    }

    pub(crate) fn name_of(&self, key: Uuid) -> Option<String> {
        self.names.get(&key).cloned()
    }

    /// Also those of a policy that is not in force.
    pub(crate) fn extend(&mut self, objects: &Listing) {
        let more = Self::of(Listing {
            filters: Vec::new(),
            ..objects.clone()
        });
        self.names.extend(more.names);
    }
}
