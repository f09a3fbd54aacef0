//! Fetches objects from the daemon, and resolves their keys to names.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};
use sidetrack_api::{Client, key_bytes, v1};
use sidetrack_policy::{Filter, Layer, Listeners, Provider, Service, Sublayer, Uuid};
use sidetrack_policy_file::Listing;
use sidetrack_policy_file::property::AnyObject;

use crate::daemon::{collect_stream, lifetime_from_wire, status_error};

/// The kind of an object. Its text form is the name of its subcommand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Provider,
    Sublayer,
    Service,
    Filter,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provider => "provider",
            Self::Sublayer => "sublayer",
            Self::Service => "service",
            Self::Filter => "filter",
        })
    }
}

/// An object as the daemon lists it, with the properties that only the daemon knows.
pub(crate) enum ListedObject {
    Provider(Provider),
    Sublayer(Sublayer),
    Service {
        service: Service,
        /// The listeners of its proxies.
        listeners: Listeners,
    },
    Filter {
        filter: Box<Filter>,
        /// The weight as a number, even if the filter has an automatic weight.
        effective_weight: u64,
        /// The owner whose `apply` added the filter; empty if it was added singly.
        owner: String,
    },
}

impl ListedObject {
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

    /// Returns the object as JSON. The members of `identity` (key, name, description) are on the
    /// top level.
    pub(crate) fn json(&self) -> Result<Value> {
        let (mut value, more) = match self {
            Self::Provider(provider) => (serde_json::to_value(provider)?, json!({})),
            Self::Sublayer(sublayer) => (serde_json::to_value(sublayer)?, json!({})),
            Self::Service { service, listeners } => (
                serde_json::to_value(service)?,
                json!({
                    "listening": listeners.tcp() != (0, 0),
                    "listeners": {
                        "tcp4": listeners.tcp4,
                        "tcp6": listeners.tcp6,
                        "udp4": listeners.udp4,
                        "udp6": listeners.udp6,
                    },
                }),
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

impl TryFrom<v1::Provider> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Provider) -> Result<Self, Self::Error> {
        let lifetime = lifetime_from_wire(wire.lifetime);
        Ok(Self::Provider(Provider {
            lifetime,
            ..wire.try_into()?
        }))
    }
}

impl TryFrom<v1::Sublayer> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Sublayer) -> Result<Self, Self::Error> {
        let lifetime = lifetime_from_wire(wire.lifetime);
        Ok(Self::Sublayer(Sublayer {
            lifetime,
            ..wire.try_into()?
        }))
    }
}

impl TryFrom<v1::Service> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Service) -> Result<Self, Self::Error> {
        let lifetime = lifetime_from_wire(wire.lifetime);
        let listeners = wire.listeners.unwrap_or_default().into();
        Ok(Self::Service {
            service: Service {
                lifetime,
                ..wire.try_into()?
            },
            listeners,
        })
    }
}

impl TryFrom<v1::Filter> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(mut wire: v1::Filter) -> Result<Self, Self::Error> {
        let (lifetime, id) = (lifetime_from_wire(wire.lifetime), wire.id);
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

/// Fetches all objects of a kind, or only those of one provider.
///
/// They are the objects as the session's transaction sees them. With a `session_id` of 0, they are
/// the objects in force.
pub(crate) async fn fetch(
    client: &mut Client,
    kind: ObjectKind,
    session_id: u64,
    provider: Option<Uuid>,
) -> Result<Vec<ListedObject>> {
    let request = v1::ListRequest {
        session_id,
        provider: provider.map(key_bytes).unwrap_or_default(),
    };
    macro_rules! fetch_all {
        ($call:ident, $members:ident) => {{
            let stream = client
                .$call(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let responses = collect_stream(stream).await?;
            let objects = responses.into_iter().flat_map(|response| response.$members);
            objects
                .map(|wire| Ok(ListedObject::try_from(wire)?))
                .collect()
        }};
    }
    match kind {
        ObjectKind::Provider => fetch_all!(list_providers, providers),
        ObjectKind::Sublayer => fetch_all!(list_sublayers, sublayers),
        ObjectKind::Service => fetch_all!(list_services, services),
        ObjectKind::Filter => fetch_all!(list_filters, filters),
    }
}

/// The objects to which other objects refer (providers, sublayers and services), with their names
/// by key.
pub(crate) struct ObjectNames {
    pub(crate) listing: Listing,
    names: HashMap<Uuid, String>,
}

impl ObjectNames {
    pub(crate) async fn fetch(client: &mut Client) -> Result<Self> {
        let mut listing = Listing::default();
        for kind in [
            ObjectKind::Provider,
            ObjectKind::Sublayer,
            ObjectKind::Service,
        ] {
            for object in fetch(client, kind, 0, None).await? {
                match object {
                    ListedObject::Provider(provider) => listing.providers.push(provider),
                    ListedObject::Sublayer(sublayer) => listing.sublayers.push(sublayer),
                    ListedObject::Service { service, .. } => listing.services.push(service),
                    ListedObject::Filter { .. } => {}
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

    /// Adds the names of a policy that is not in force yet.
    pub(crate) fn extend(&mut self, objects: &Listing) {
        let more = Self::of(Listing {
            filters: Vec::new(),
            ..objects.clone()
        });
        self.names.extend(more.names);
    }
}
