//! The objects of a policy (specification, 4.2): providers, sublayers, services, filters.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
pub use uuid::Uuid;

use crate::{Code, Condition, Error, Field, Layer, LayerKind, Weight};

/// Bytes of a name.
pub const NAME_SIZE_MAX: usize = 256;
/// Bytes of a service's name: it stands in every flow.
pub const SERVICE_NAME_SIZE_MAX: usize = sidetrack_abi::kernel::NAME_SIZE - 1;
/// Bytes of a description.
pub const DESCRIPTION_SIZE_MAX: usize = 1024;
/// Conditions of one filter.
pub const CONDITIONS_MAX: usize = 1024;
/// Bytes of a fixed redirect context.
pub const CONTEXT_SIZE_MAX: usize = sidetrack_abi::kernel::CONTEXT_SIZE_MAX;

/// The name space of keys made by [`Identity::applied_key`].
const APPLIED: Uuid = Uuid::from_u128(0x51de_7ac4_0000_5000_8000_0000_0000_0001);

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Unique among objects of its kind; nil: one is made.
    pub key: Uuid,
    /// For people. Needed.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// How long an object lives (specification, 4.1). In this order: from the shortest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until its session ends.
    Dynamic,
    /// Until it is deleted, or the daemon stops for good.
    #[default]
    Static,
    /// Until it is deleted; it survives a reboot.
    Persistent,
    /// Of filters: from boot until the daemon has loaded its store. Survives a reboot.
    BootTime,
    /// Always there; it can be neither added nor deleted.
    BuiltIn,
}

/// Who owns objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Key and names.
    pub identity: Identity,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// The systemd unit of the vendor's product. If it is named and not enabled, the provider's
    /// persistent objects are not loaded.
    pub service_name: Option<String>,
}

/// A group of filters with a place among the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sublayer {
    /// Key and names.
    pub identity: Identity,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whose it is.
    pub provider: Option<Uuid>,
    /// The higher, the earlier.
    pub weight: u16,
}

/// A redirection identity (WFP: redirect handle and callout), for both families.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Key and names. The name is 1 to 31 bytes long.
    pub identity: Identity,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whose it is.
    pub provider: Option<Uuid>,
    /// What its own connects without records get.
    pub records: Records,
    /// What a filter does while nobody listens, unless it says otherwise itself.
    pub on_absent: Absent,
    /// What the proxy is told besides, unless the filter says otherwise.
    pub context: Context,
}

/// What a connect of the service's own, without records, gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Records {
    /// It is blocked and reported.
    #[default]
    Required,
    /// It goes straight on: for proxies with traffic of their own.
    RequiredOrOwn,
    /// It goes on from behind the service's place: for proxies that know nothing of records.
    Legacy,
}

/// What becomes of a connection whose service has no listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// connect fails with ECONNREFUSED (as WFP does with an unregistered callout).
    #[default]
    Block,
    /// As if the filter were not there.
    Permit,
}

/// A redirect context (WFP: localRedirectContext).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// There is none: CONTEXT answers ENODATA.
    #[default]
    None,
    /// These bytes, at most 4,000.
    Fixed(Vec<u8>),
    /// `struct sidetrack_auto_context`: original destination, program, flow.
    Auto,
}

/// A rule at a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Key and names.
    pub identity: Identity,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whose it is.
    pub provider: Option<Uuid>,
    /// Where it is asked.
    pub layer: Layer,
    /// Among which others; nil: [`SUBLAYER_UNIVERSAL`].
    pub sublayer: Uuid,
    /// Its place in the sublayer.
    pub weight: Weight,
    /// None: everything.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub action: Action,
    /// Its verdict is final for lower sublayers (FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT). A block's
    /// always is.
    #[serde(default)]
    pub clear_action_right: bool,
    /// Kept, not judged by (FWPM_FILTER_FLAG_DISABLED).
    #[serde(default)]
    pub disabled: bool,
    /// Of a redirect: instead of the service's own.
    #[serde(default)]
    pub on_absent: Option<Absent>,
    /// Of a redirect: instead of the service's own.
    #[serde(default)]
    pub context: Option<Context>,
    /// Its number at run time, shown in flows and events (WFP: filterId). The engine gives it.
    #[serde(default)]
    pub id: u64,
}

/// What a filter does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let it: soft, unless the filter clears the right to act.
    Permit,
    /// Refuse it: hard, as a filter's block is.
    Block,
    /// Refuse it as a callout does: a lower sublayer may still permit, but it overrides even a hard
    /// permit of a higher one.
    Veto,
    /// Tell it as an event; matching goes on.
    Inspect,
    /// To this service, unless it has seen the connection.
    Redirect(Uuid),
}

/// The sublayer of filters that name none (FWPM_SUBLAYER_UNIVERSAL). Built in, weight 0.
pub const SUBLAYER_UNIVERSAL: Uuid = Uuid::from_u128(0xeebe_cc03_ced4_4380_819a_2734_397b_2b74);

impl Identity {
    /// The key that an applied policy's object gets if it brings none: a UUID of version 5 that
    /// follows from the policy's owner, the kind of object ("provider", "sublayer", "service",
    /// "filter") and its name. So the same name is the same object at the next apply.
    pub fn applied_key(owner: &str, kind: &str, name: &str) -> Uuid {
        // Names have no control characters, so a zero byte keeps the parts apart.
        Uuid::new_v5(&APPLIED, format!("{owner}\0{kind}\0{name}").as_bytes())
    }

    fn check(&self, what: &str, name_size_max: usize) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(Error::new(
                Code::NullDisplayName,
                format!("a {what} needs a name"),
            ));
        }
        if self.name.len() > name_size_max || self.name.chars().any(char::is_control) {
            return Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "a {what}'s name has at most {name_size_max} bytes, and no control characters"
                ),
            ));
        }
        if self.description.len() > DESCRIPTION_SIZE_MAX {
            return Err(Error::new(
                Code::OutOfBounds,
                format!("a description has at most {DESCRIPTION_SIZE_MAX} bytes"),
            ));
        }
        Ok(())
    }
}

impl Provider {
    /// Checks it by itself. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
    pub fn check(&self) -> Result<(), Error> {
        self.identity.check("provider", NAME_SIZE_MAX)
    }
}

impl Sublayer {
    /// Checks it by itself. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
    pub fn check(&self) -> Result<(), Error> {
        self.identity.check("sublayer", NAME_SIZE_MAX)
    }
}

impl Service {
    /// Checks it by itself. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
    pub fn check(&self) -> Result<(), Error> {
        self.identity.check("service", SERVICE_NAME_SIZE_MAX)?;
        self.context.check()
    }
}

impl Context {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Fixed(bytes) if bytes.len() > CONTEXT_SIZE_MAX => Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "a redirect context has at most {CONTEXT_SIZE_MAX} bytes; this one has {}",
                    bytes.len()
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Filter {
    /// A filter without conditions, in the universal sublayer.
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
        }
    }

    /// Checks it by itself: what it refers to is checked where it is added.
    ///
    /// Errors: those of [`Condition::check`] and of the weight, FWP_E_NULL_DISPLAY_NAME,
    /// …ACTION_INCOMPATIBLE_WITH_LAYER, …INVALID_FLAGS, …OUT_OF_BOUNDS, …NEVER_MATCH.
    pub fn check(&self) -> Result<(), Error> {
        self.identity.check("filter", NAME_SIZE_MAX)?;
        self.weight.check()?;
        self.action.check(self.layer.kind)?;
        if let Some(context) = &self.context {
            context.check()?;
        }
        if self.action.service().is_none() && (self.on_absent.is_some() || self.context.is_some()) {
            return Err(Error::new(
                Code::InvalidFlags,
                "on_absent and context go with a redirect only",
            ));
        }
        if self.conditions.len() > CONDITIONS_MAX {
            return Err(Error::new(
                Code::OutOfBounds,
                format!("a filter has at most {CONDITIONS_MAX} conditions"),
            ));
        }
        for condition in &self.conditions {
            condition.check(self.layer)?;
        }
        self.check_possible()
    }

    /// Refuses what no connection can ever meet.
    fn check_possible(&self) -> Result<(), Error> {
        let mut possible: BTreeMap<Field, bool> = BTreeMap::new();
        for condition in &self.conditions {
            *possible.entry(condition.field).or_default() |= !condition.is_impossible(self.layer);
        }
        match possible.into_iter().find(|(_, possible)| !possible) {
            None => Ok(()),
            Some((field, _)) => Err(Error::new(
                Code::NeverMatch,
                format!(
                    "filter {:?} can never match: no {field} meets its conditions",
                    self.identity.name
                ),
            )),
        }
    }
}

impl Action {
    /// The service it redirects to.
    pub fn service(self) -> Option<Uuid> {
        match self {
            Self::Redirect(service) => Some(service),
            _ => None,
        }
    }

    /// As in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Block => "block",
            Self::Veto => "veto",
            Self::Inspect => "inspect",
            Self::Redirect(_) => "redirect",
        }
    }

    /// Whether it makes sense at a layer.
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

    fn check(self, layer: LayerKind) -> Result<(), Error> {
        if self.is_at(layer) {
            return Ok(());
        }
        Err(Error::new(
            Code::ActionIncompatibleWithLayer,
            format!("layer {} has no action {}", layer.name(), self.name()),
        ))
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
