//! The objects of a policy: providers, sublayers, services and filters (docs/wfp.md, 4.2).

mod check;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
pub use uuid::Uuid;

pub use self::check::{InvalidPart, ObjectPart};
use crate::{Condition, Field, Layer, LayerKind, MatchType, Value, Weight};

/// Greatest length of a name, in bytes.
pub const NAME_SIZE_MAX: usize = 256;
/// Greatest length of a service's name, in bytes. It is shorter because every flow contains it.
pub const SERVICE_NAME_SIZE_MAX: usize = sidetrack_abi::kernel::NAME_SIZE - 1;
/// Greatest length of a description, in bytes.
pub const DESCRIPTION_SIZE_MAX: usize = 1024;
/// Greatest number of conditions of one filter.
pub const CONDITIONS_MAX: usize = 1024;
/// Greatest length of a fixed redirect context, in bytes.
pub const CONTEXT_SIZE_MAX: usize = sidetrack_abi::kernel::CONTEXT_SIZE_MAX;

/// The UUID name space of the keys that [`Identity::applied_key`] makes.
const APPLIED_KEYS: Uuid = Uuid::from_u128(0x51de_7ac4_0000_5000_8000_0000_0000_0001);

/// The key and the names that every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Key, which is unique among the objects of one kind. If it is nil, adding the object makes a
    /// key.
    pub key: Uuid,
    /// Name for people; required. At most [`NAME_SIZE_MAX`] bytes, without control characters.
    pub name: String,
    /// Description for people; may be empty. At most [`DESCRIPTION_SIZE_MAX`] bytes.
    #[serde(default)]
    pub description: String,
}

/// How long an object exists (docs/wfp.md, 4.1). The variants are in order, the shortest lifetime
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until its session ends.
    Dynamic,
    /// Until it is deleted, the daemon's store is emptied, or the host restarts.
    #[default]
    Static,
    /// Until it is deleted; it survives a restart of the host.
    Persistent,
    /// Until it is deleted; it survives a restart of the host. Only filters can have this lifetime.
    /// Such a filter is in force only if nothing is pinned when the daemon starts, as after a restart of
    /// the host, and until the daemon has loaded its store.
    BootTime,
    /// The object always exists and can be neither added nor deleted.
    BuiltIn,
}

/// A vendor or product to which other objects belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Key and names.
    pub identity: Identity,
    /// How long the object exists.
    pub lifetime: Lifetime,
    /// The systemd unit of the product. If a unit is named and is not enabled, the daemon does not
    /// load the provider's persistent objects when it starts.
    pub service_name: Option<String>,
}

/// A group of filters, with a weight that orders it among the other groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sublayer {
    /// Key and names.
    pub identity: Identity,
    /// How long the object exists.
    pub lifetime: Lifetime,
    /// Key of the provider to which it belongs, if any.
    pub provider: Option<Uuid>,
    /// Weight. The sublayer of higher weight is evaluated earlier.
    pub weight: u16,
}

/// A redirect target for both address families (WFP: redirect handle and callout).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Key and names. The name has 1 to [`SERVICE_NAME_SIZE_MAX`] bytes.
    pub identity: Identity,
    /// How long the object exists.
    pub lifetime: Lifetime,
    /// Key of the provider to which it belongs, if any.
    pub provider: Option<Uuid>,
    /// What happens to a connect of the service's own processes without redirect records.
    pub records: RecordsMode,
    /// Whether its records work for one destination only: a socket that has records of this service
    /// and connects or sends to another address, port or protocol than those of the flow is refused
    /// with EPERM.
    #[serde(default)]
    pub records_bound: bool,
    /// When the connect of a redirected program returns.
    #[serde(default)]
    pub connect: ConnectMode,
    /// What happens to a redirected connection while the service is absent, unless the filter sets
    /// it.
    pub on_absent: Absent,
    /// Redirect context of redirected connections, unless the filter sets it.
    pub context: RedirectContext,
}

/// What happens to a connect of a service's own process, if its socket has no redirect records and a
/// filter matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsMode {
    /// The connect is refused with EPERM, and an event reports it.
    #[default]
    Required,
    /// The connect is classified, but filters that redirect are skipped. For proxies with their own
    /// traffic, such as downloads of updates.
    RequiredOrOwn,
    /// The connect is classified as if the services up to this one had seen the connection: filters
    /// up to the last one that redirects to this service do not redirect it. For legacy proxies,
    /// which set no records.
    Legacy,
}

/// When the connect of a program returns whose TCP connection is redirected to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectMode {
    /// As soon as the service's listener has accepted it, before the proxy has connected onward.
    #[default]
    Accepted,
    /// Once the proxy has connected onward, with the outcome of that: the listeners of the service
    /// may hold the program's SYN until then.
    Pended,
}

/// What happens to a connection that a filter redirects to an absent service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// The connect, or the sending of a datagram, fails with ECONNREFUSED. WFP, too, blocks if a callout
    /// is not registered.
    #[default]
    Block,
    /// The filter is skipped.
    Permit,
}

/// The redirect context that a filter gives to the service (WFP: localRedirectContext).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectContext {
    /// There is no context: the socket option CONTEXT fails with ENODATA.
    #[default]
    None,
    /// These bytes; at most [`CONTEXT_SIZE_MAX`].
    Fixed(Vec<u8>),
    /// The kernel writes a `struct sidetrack_auto_context`: original destination, original program
    /// and flow.
    Auto,
}

/// Conditions, a weight and an action at one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Key and names.
    pub identity: Identity,
    /// How long the object exists.
    pub lifetime: Lifetime,
    /// Key of the provider to which it belongs, if any.
    pub provider: Option<Uuid>,
    /// Layer at which the filter is evaluated.
    pub layer: Layer,
    /// Key of the sublayer to which the filter belongs; nil means [`SUBLAYER_UNIVERSAL`].
    pub sublayer: Uuid,
    /// Weight, which orders the filter within its sublayer.
    pub weight: Weight,
    /// Conditions. Without any, the filter matches every connection.
    pub conditions: Vec<Condition>,
    /// What the filter does if it matches.
    pub action: Action,
    /// True if lower sublayers cannot change the verdict (WFP:
    /// FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT). They can never change a block.
    #[serde(default)]
    pub clear_action_right: bool,
    /// True if the filter is kept but not evaluated (WFP: FWPM_FILTER_FLAG_DISABLED).
    #[serde(default)]
    pub disabled: bool,
    /// For a redirect: overrides [`Service::on_absent`]. Otherwise none.
    #[serde(default)]
    pub on_absent: Option<Absent>,
    /// For a redirect: overrides [`Service::context`]. Otherwise none.
    #[serde(default)]
    pub context: Option<RedirectContext>,
    /// Number of the filter at run time, shown in flows and events (WFP: filterId). Set when the
    /// filter is added; 0 before.
    #[serde(default)]
    pub id: u64,
    /// The user to whose connections the filter is restricted; none if it applies to those of all
    /// users. Set when the filter is added, from its author's [`Reach`](crate::set::Reach).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_user: Option<u32>,
}

/// What a filter does with a connection that it matches (docs/wfp.md, 4.6 and 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Permits the connection. The verdict is soft, unless [`Filter::clear_action_right`] is set.
    Permit,
    /// Blocks the connection. The verdict is hard.
    Block,
    /// Blocks the connection, even if the verdict of a higher sublayer is a hard permit. Otherwise
    /// the verdict is soft: a lower sublayer can still permit the connection. WFP has this for
    /// callouts only.
    Veto,
    /// Reports the connection as an event. The evaluation continues with the next filter.
    Inspect,
    /// Redirects the connection to the service with this key. If the service has already seen the
    /// connection, the filter is skipped.
    Redirect(Uuid),
}

/// Key of the sublayer of filters that name none (WFP: FWPM_SUBLAYER_UNIVERSAL). It is built in and
/// has weight 0.
pub const SUBLAYER_UNIVERSAL: Uuid = Uuid::from_u128(0xeebe_cc03_ced4_4380_819a_2734_397b_2b74);

impl Lifetime {
    /// The lifetime by which durations are compared: boot-time filters are kept as long as
    /// persistent objects. An object refers only to objects of at least its own duration.
    pub fn duration(self) -> Self {
        match self {
            Self::BootTime => Self::Persistent,
            other => other,
        }
    }
}

impl Identity {
    /// The key of an object of an applied policy that does not set one.
    ///
    /// It is a UUID of version 5 (RFC 9562, 5.5), made from the policy's owner, the kind of object
    /// ("provider", "sublayer", "service" or "filter") and its name. So the same name means the
    /// same object when the owner applies its policy again.
    pub fn applied_key(owner: &str, kind: &str, name: &str) -> Uuid {
        // Names have no control characters, so the zero byte separates the parts unambiguously.
        Uuid::new_v5(&APPLIED_KEYS, format!("{owner}\0{kind}\0{name}").as_bytes())
    }
}

impl Filter {
    /// A static filter without conditions, in the universal sublayer, with an automatic weight.
    pub fn new(name: &str, layer: Layer, action: Action) -> Self {
        Self {
            identity: Identity {
                name: name.to_owned(),
                ..Identity::default()
            },
            lifetime: Lifetime::default(),
            provider: None,
            layer,
            sublayer: SUBLAYER_UNIVERSAL,
            weight: Weight::Auto,
            conditions: Vec::new(),
            action,
            clear_action_right: false,
            disabled: false,
            on_absent: None,
            context: None,
            id: 0,
            only_user: None,
        }
    }

    /// The number by which the filter is ordered within its sublayer. A filter of higher number is
    /// evaluated earlier.
    ///
    /// An automatic weight is higher the more fields the conditions test; of as many fields, it is
    /// higher the more bits the conditions fix: a /24 prefix is above a /8.
    pub fn effective_weight(&self) -> u64 {
        self.weight.effective(&self.conditions)
    }

    /// The conditions by which the filter is evaluated: its own and, if it is restricted to one user,
    /// that the original program is that user's. The restriction also excludes elevated programs,
    /// which no condition tests: see [`Program::elevated`](crate::field_values::Program::elevated).
    ///
    /// Conditions on the same field are alternatives, so one more on the user would widen the
    /// filter. So the restriction replaces those that hold for this user. If none of them does, the
    /// filter matches nothing; adding such a filter is refused.
    pub fn effective_conditions(&self) -> Cow<'_, [Condition]> {
        let Some(user) = self.only_user else {
            return Cow::Borrowed(&self.conditions);
        };
        let of_user = |each: &&Condition| each.field == Field::User;
        let others = self.conditions.iter().filter(|each| !of_user(each));
        let mut effective: Vec<Condition> = others.cloned().collect();
        effective.push(match self.may_match_user(user) {
            true => Condition::equal(Field::User, Value::Uint(user.into())),
            false => NO_USER,
        });
        Cow::Owned(effective)
    }

    /// True if the filter's conditions on the user of the original program hold for this user.
    pub(crate) fn may_match_user(&self, user: u32) -> bool {
        let conditions = self.conditions.iter();
        let mut on_user = conditions
            .filter(|each| each.field == Field::User)
            .peekable();
        on_user.peek().is_none() || on_user.any(|each| each.holds_for_number(user.into()))
    }
}

/// A condition that no user satisfies.
const NO_USER: Condition = Condition {
    field: Field::User,
    match_type: MatchType::Less,
    value: Value::Uint(0),
};

impl Action {
    /// Key of the service to which the action redirects; none for other actions.
    pub fn service(self) -> Option<Uuid> {
        match self {
            Self::Redirect(service) => Some(service),
            _ => None,
        }
    }

    /// Name in policy files, for example `redirect`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Block => "block",
            Self::Veto => "veto",
            Self::Inspect => "inspect",
            Self::Redirect(_) => "redirect",
        }
    }

    /// True if the layer has this action.
    pub fn is_at(self, layer: LayerKind) -> bool {
        match self {
            Self::Inspect => true,
            Self::Redirect(_) => layer == LayerKind::ConnectRedirect,
            Self::Permit | Self::Block | Self::Veto => !matches!(
                layer,
                LayerKind::FlowEstablished | LayerKind::EndpointClosure
            ),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Persistent => "persistent",
            Self::BootTime => "boot-time",
            Self::BuiltIn => "built-in",
        })
    }
}
