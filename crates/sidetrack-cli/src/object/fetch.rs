//! Fetches objects from the daemon, and resolves their keys to names.

use std::collections::{HashMap, HashSet};
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
pub(crate) struct ListedObject {
    pub(crate) kind: ListedKind,
    /// Id of the user that added the object.
    pub(crate) user: u32,
}

/// The object of a [`ListedObject`], with what the daemon knows of this kind.
pub(crate) enum ListedKind {
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
        match &self.kind {
            ListedKind::Provider(provider) => AnyObject::Provider(provider),
            ListedKind::Sublayer(sublayer) => AnyObject::Sublayer(sublayer),
            ListedKind::Service { service, .. } => AnyObject::Service(service),
            ListedKind::Filter { filter, .. } => AnyObject::Filter(filter),
        }
    }

    pub(crate) fn key(&self) -> Uuid {
        self.object().identity().key
    }

    pub(crate) fn name(&self) -> &str {
        &self.object().identity().name
    }

    pub(crate) fn layer(&self) -> Option<Layer> {
        match &self.kind {
            ListedKind::Filter { filter, .. } => Some(filter.layer),
            _ => None,
        }
    }

    /// Returns the object as JSON. The members of `identity` (key, name, description) are on the
    /// top level.
    pub(crate) fn json(&self) -> Result<Value> {
        let (mut value, more) = match &self.kind {
            ListedKind::Provider(provider) => (serde_json::to_value(provider)?, json!({})),
            ListedKind::Sublayer(sublayer) => (serde_json::to_value(sublayer)?, json!({})),
            ListedKind::Service { service, listeners } => (
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
            ListedKind::Filter {
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
        for part in [identity, value, more, json!({ "user": self.user })] {
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
        let (lifetime, user) = (lifetime_from_wire(wire.lifetime), wire.user);
        let kind = ListedKind::Provider(Provider {
            lifetime,
            ..wire.try_into()?
        });
        Ok(Self { kind, user })
    }
}

impl TryFrom<v1::Sublayer> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Sublayer) -> Result<Self, Self::Error> {
        let (lifetime, user) = (lifetime_from_wire(wire.lifetime), wire.user);
        let kind = ListedKind::Sublayer(Sublayer {
            lifetime,
            ..wire.try_into()?
        });
        Ok(Self { kind, user })
    }
}

impl TryFrom<v1::Service> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(wire: v1::Service) -> Result<Self, Self::Error> {
        let (lifetime, user) = (lifetime_from_wire(wire.lifetime), wire.user);
        let kind = ListedKind::Service {
            listeners: wire.listeners.unwrap_or_default().into(),
            service: Service {
                lifetime,
                ..wire.try_into()?
            },
        };
        Ok(Self { kind, user })
    }
}

impl TryFrom<v1::Filter> for ListedObject {
    type Error = sidetrack_policy::Error;

    fn try_from(mut wire: v1::Filter) -> Result<Self, Self::Error> {
        let (lifetime, user) = (lifetime_from_wire(wire.lifetime), wire.user);
        let (id, only_user) = (wire.id, wire.only_user);
        let kind = ListedKind::Filter {
            effective_weight: wire.effective_weight,
            owner: std::mem::take(&mut wire.owner),
            filter: Box::new(Filter {
                lifetime,
                id,
                only_user,
                ..wire.try_into()?
            }),
        };
        Ok(Self { kind, user })
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

/// The objects to which other objects refer: providers, sublayers and services.
pub(crate) struct ObjectNames {
    /// The objects of all users.
    pub(crate) listing: Listing,
    /// Those to which the calling user refers by name: its own, and root's. Other users' objects
    /// can only be named by their keys, so that nobody can take another one's place.
    pub(crate) referable: Listing,
    /// The names of all objects by key.
    names: HashMap<Uuid, String>,
}

impl ObjectNames {
    pub(crate) async fn fetch(client: &mut Client) -> Result<Self> {
        let mut all = Vec::new();
        for kind in [
            ObjectKind::Provider,
            ObjectKind::Sublayer,
            ObjectKind::Service,
        ] {
            all.extend(fetch(client, kind, 0, None).await?);
        }
        let listing = sorted(all.iter());
        Ok(Self {
            names: names(&listing).collect(),
            referable: sorted(referable(all.iter()).into_iter()),
            listing,
        })
    }

    /// The names of a policy's objects, which all have the same user.
    #[cfg(test)]
    pub(crate) fn of(listing: Listing) -> Self {
        Self {
            names: names(&listing).collect(),
            referable: listing.clone(),
            listing,
        }
    }

    pub(crate) fn name_of(&self, key: Uuid) -> Option<String> {
        self.names.get(&key).cloned()
    }

    /// Adds the names of a policy that is not in force yet.
    pub(crate) fn extend(&mut self, objects: &Listing) {
        self.names.extend(names(objects));
    }
}

/// The names of providers, sublayers and services by key. Filters are left out, since nothing refers to them.
fn names(objects: &Listing) -> impl Iterator<Item = (Uuid, String)> {
    let objects = objects.all();
    let referred = objects.filter(|object| !matches!(object, AnyObject::Filter(_)));
    referred.map(|object| (object.identity().key, object.identity().name.clone()))
}

/// The objects to which the calling user refers by their names: its own, and those of root for whose
/// kind and name it has none. The daemon resolves names in the same way.
pub(crate) fn referable<'a>(
    all: impl Iterator<Item = &'a ListedObject> + Clone,
) -> Vec<&'a ListedObject> {
    let user = rustix::process::geteuid().as_raw();
    let kind_and_name = |object: &'a ListedObject| (object.object().kind(), object.name());
    let own = all.clone().filter(|object| object.user == user);
    let own_names: HashSet<_> = own.map(kind_and_name).collect();
    let is_referable = |object: &&'a ListedObject| {
        object.user == user || (object.user == 0 && !own_names.contains(&kind_and_name(object)))
    };
    all.filter(is_referable).collect()
}

/// Sorts objects by kind. Filters are left out, since nothing refers to them.
fn sorted<'a>(objects: impl Iterator<Item = &'a ListedObject>) -> Listing {
    let mut listing = Listing::default();
    for object in objects {
        match &object.kind {
            ListedKind::Provider(provider) => listing.providers.push(provider.clone()),
            ListedKind::Sublayer(sublayer) => listing.sublayers.push(sublayer.clone()),
            ListedKind::Service { service, .. } => listing.services.push(service.clone()),
            ListedKind::Filter { .. } => {}
        }
    }
    listing
}
