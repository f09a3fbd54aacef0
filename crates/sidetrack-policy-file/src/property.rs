//! Describes objects for people: each object as a list of properties, each property as a name and a text.

use sidetrack_policy::field::{FieldType, address_type, flags};
use sidetrack_policy::{
    Absent, Action, Condition, ConnectMode, Field, Filter, Identity, MatchType, Provider,
    RecordsMode, RedirectContext, SUBLAYER_UNIVERSAL, Service, Sublayer, Uuid, Value, Weight,
};

use crate::value::{DIRECTIONS, PROTOCOLS};

/// An object of any kind.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum AnyObject<'a> {
    Provider(&'a Provider),
    Sublayer(&'a Sublayer),
    Service(&'a Service),
    Filter(&'a Filter),
}

/// Finds the name of the provider, sublayer or service with a key; none if it is not known.
pub type NameOf<'a> = &'a dyn Fn(Uuid) -> Option<String>;

/// One property: its name in policy files, and its value as a text.
pub type Property = (&'static str, String);

impl<'a> AnyObject<'a> {
    /// Kind of object, as in policy files: `provider`, `sublayer`, `service` or `filter`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Provider(_) => "provider",
            Self::Sublayer(_) => "sublayer",
            Self::Service(_) => "service",
            Self::Filter(_) => "filter",
        }
    }

    /// Key and names.
    pub fn identity(self) -> &'a Identity {
        match self {
            Self::Provider(one) => &one.identity,
            Self::Sublayer(one) => &one.identity,
            Self::Service(one) => &one.identity,
            Self::Filter(one) => &one.identity,
        }
    }

    /// The properties of the object, in a fixed order. Properties that are not set are left out.
    ///
    /// A filter's id is not among them, since it does not influence what the filter does.
    pub fn properties(self, name_of: NameOf<'_>) -> Vec<Property> {
        let Identity {
            key,
            name,
            description,
        } = self.identity();
        let mut all = vec![("name", name.clone()), ("key", key.to_string())];
        if !description.is_empty() {
            all.push(("description", description.clone()));
        }
        // The patterns name every field, so that the compiler reports a field that is not listed
        // here.
        match self {
            Self::Provider(Provider {
                identity: _,
                lifetime,
                service_name,
            }) => {
                all.push(("lifetime", lifetime.to_string()));
                all.extend(service_name.clone().map(|unit| ("service_name", unit)));
            }
            Self::Sublayer(Sublayer {
                identity: _,
                lifetime,
                provider,
                weight,
            }) => {
                all.push(("lifetime", lifetime.to_string()));
                all.extend(provider.map(|key| ("provider", named(key, name_of))));
                all.push(("weight", weight.to_string()));
            }
            Self::Service(Service {
                identity: _,
                lifetime,
                provider,
                records,
                records_bound,
                connect,
                on_absent,
                context,
            }) => {
                all.push(("lifetime", lifetime.to_string()));
                all.extend(provider.map(|key| ("provider", named(key, name_of))));
                all.push(("records", records_name(*records).to_owned()));
                if *records_bound {
                    all.push(("records_bound", "true".to_owned()));
                }
                all.push(("connect", connect_name(*connect).to_owned()));
                all.push(("on_absent", absent_name(*on_absent).to_owned()));
                all.push(("context", context_text(context)));
            }
            Self::Filter(filter) => all.extend(filter_properties(filter, name_of)),
        }
        all
    }
}

fn filter_properties(filter: &Filter, name_of: NameOf<'_>) -> Vec<Property> {
    let Filter {
        identity: _,
        lifetime,
        provider,
        layer,
        sublayer,
        weight,
        conditions,
        action,
        clear_action_right,
        disabled,
        on_absent,
        context,
        id: _,
        only_user,
    } = filter;
    let mut all = vec![("lifetime", lifetime.to_string())];
    all.extend(provider.map(|key| ("provider", named(key, name_of))));
    all.push(("layer", layer.to_string()));
    all.push(("sublayer", named(*sublayer, name_of)));
    all.push(("weight", weight_text(*weight)));
    for field in Field::ALL {
        let alternatives = conditions.iter().filter(|one| one.field == field);
        let texts: Vec<_> = alternatives.map(compared_text).collect();
        if !texts.is_empty() {
            all.push((field.name(), texts.join(" or ")));
        }
    }
    all.push(("action", action_text(*action, name_of)));
    if *clear_action_right {
        all.push(("clear_action_right", "true".to_owned()));
    }
    if *disabled {
        all.push(("disabled", "true".to_owned()));
    }
    all.extend(on_absent.map(|absent| ("on_absent", absent_name(absent).to_owned())));
    all.extend(
        context
            .as_ref()
            .map(|context| ("context", context_text(context))),
    );
    all.extend(only_user.map(|user| ("only_user", user.to_string())));
    all
}

/// The name of the object with a key; the key itself if the name is not known.
fn named(key: Uuid, name_of: NameOf<'_>) -> String {
    match (name_of(key), key) {
        (Some(name), _) => name,
        (None, SUBLAYER_UNIVERSAL) => "universal".to_owned(),
        (None, key) => key.to_string(),
    }
}

/// An action as a text, for example `redirect to inspect`.
pub fn action_text(action: Action, name_of: NameOf<'_>) -> String {
    match action {
        Action::Redirect(service) => format!("redirect to {}", named(service, name_of)),
        other => other.name().to_owned(),
    }
}

/// A weight as its author gave it, for example `class 8`.
fn weight_text(weight: Weight) -> String {
    match weight {
        Weight::Literal(weight) => weight.to_string(),
        Weight::Class(class) => format!("class {class}"),
        Weight::Auto => "auto".to_owned(),
    }
}

/// A condition without its field, for example `443`, `!=443` or `prefix /system.slice`.
fn compared_text(condition: &Condition) -> String {
    let value = value_text(condition.field, &condition.value);
    match condition.match_type {
        MatchType::Equal | MatchType::Range => value,
        MatchType::NotEqual => format!("!={value}"),
        MatchType::Greater => format!(">{value}"),
        MatchType::Less => format!("<{value}"),
        MatchType::GreaterOrEqual => format!(">={value}"),
        MatchType::LessOrEqual => format!("<={value}"),
        other => format!("{} {value}", other.name()),
    }
}

/// Conditions as one line, for example `app=/usr/bin/curl remote_port=80|443`.
pub fn conditions_text(conditions: &[Condition]) -> String {
    let mut parts = Vec::new();
    for field in Field::ALL {
        let alternatives = conditions.iter().filter(|one| one.field == field);
        let texts: Vec<_> = alternatives.map(compared_text).collect();
        if !texts.is_empty() {
            parts.push(format!("{field}={}", texts.join("|")));
        }
    }
    parts.join(" ")
}

fn value_text(field: Field, value: &Value) -> String {
    let names: &[(&str, u64)] = match field {
        Field::Flags => &flags::NAMES,
        Field::LocalAddressType | Field::DestinationAddressType => &address_type::NAMES,
        Field::Protocol => &PROTOCOLS,
        Field::Direction => &DIRECTIONS,
        _ => &[],
    };
    match (field.kind(), value) {
        (FieldType::Uint(_), Value::Uint(bits)) if field == Field::Flags => flag_names(*bits),
        (FieldType::Uint(_), Value::Uint(number)) => {
            let name = names.iter().find(|(_, each)| each == number);
            name.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
        }
        _ => value.to_string(),
    }
}

fn flag_names(bits: u64) -> String {
    let known = flags::NAMES.iter().filter(|(_, bit)| bits & bit != 0);
    let mut names: Vec<_> = known.map(|(name, _)| (*name).to_owned()).collect();
    let rest = flags::NAMES.iter().fold(bits, |bits, (_, bit)| bits & !bit);
    if rest != 0 || names.is_empty() {
        names.push(format!("{rest:#x}"));
    }
    names.join("+")
}

fn records_name(records: RecordsMode) -> &'static str {
    match records {
        RecordsMode::Required => "required",
        RecordsMode::RequiredOrOwn => "required_or_own",
        RecordsMode::Legacy => "legacy",
    }
}

fn connect_name(connect: ConnectMode) -> &'static str {
    match connect {
        ConnectMode::Accepted => "accepted",
        ConnectMode::Pended => "pended",
    }
}

fn absent_name(absent: Absent) -> &'static str {
    match absent {
        Absent::Block => "block",
        Absent::Permit => "permit",
    }
}

/// Greatest length of a fixed context that is shown as a text rather than in hexadecimal, in bytes.
const CONTEXT_TEXT_MAX: usize = 64;

fn context_text(context: &RedirectContext) -> String {
    let bytes = match context {
        RedirectContext::None => return "none".to_owned(),
        RedirectContext::Auto => return "auto".to_owned(),
        RedirectContext::Fixed(bytes) => bytes,
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= CONTEXT_TEXT_MAX && !text.contains(char::is_control) => {
            format!("text {text:?}")
        }
        // All bytes are shown, so that the texts of two different contexts differ too.
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("hex {hex}")
        }
    }
}
