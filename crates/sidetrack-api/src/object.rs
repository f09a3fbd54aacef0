//! Conversion of objects from and to the API's messages.
//!
//! The conversions check only that each field has a value of its type. Whether the values fit each
//! other is checked by `sidetrack_policy`.

use std::net::{IpAddr, SocketAddr};

use sidetrack_policy::{
    Absent, Action, Code, ConnectMode, Error, Filter, Identity, Layer, Lifetime, Listeners,
    Provider, RecordsMode, RedirectContext, SUBLAYER_UNIVERSAL, Service, Sublayer, Uuid, Weight,
};

use crate::v1;

const PERSISTENT: u32 = v1::Flag::Persistent as u32;
const BOOT_TIME: u32 = v1::Flag::BootTime as u32;
const CLEAR_ACTION_RIGHT: u32 = v1::Flag::ClearActionRight as u32;
const DISABLED: u32 = v1::Flag::Disabled as u32;

/// Reads a key of 16 bytes; none if there are no bytes or all are zero. Errors:
/// FWP_E_INVALID_PARAMETER.
pub fn key(bytes: &[u8]) -> Result<Option<Uuid>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let uuid = Uuid::from_slice(bytes).map_err(|_| {
        Error::new(
            Code::InvalidParameter,
            format!("a key must have 16 bytes; this one has {}", bytes.len()),
        )
    })?;
    Ok((!uuid.is_nil()).then_some(uuid))
}

/// The 16 bytes of a key; no bytes for the nil key.
pub fn key_bytes(key: Uuid) -> Vec<u8> {
    match key.is_nil() {
        true => Vec::new(),
        false => key.as_bytes().to_vec(),
    }
}

/// Reads an address of 4 or 16 bytes in network order. Errors: FWP_E_ZERO_LENGTH_ARRAY,
/// …INVALID_PARAMETER.
pub fn address(bytes: &[u8]) -> Result<IpAddr, Error> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(v6.into());
    }
    let code = match bytes.len() {
        0 => Code::ZeroLengthArray,
        _ => Code::InvalidParameter,
    };
    Err(Error::new(
        code,
        format!(
            "an address must have 4 or 16 bytes; this one has {}",
            bytes.len()
        ),
    ))
}

/// Reads an address and a port. Errors: as [`address`], and FWP_E_OUT_OF_BOUNDS.
pub fn socket_address(endpoint: &v1::Endpoint) -> Result<SocketAddr, Error> {
    let port = u16::try_from(endpoint.port).map_err(|_| {
        Error::new(
            Code::OutOfBounds,
            format!(
                "a port must be from 0 to 65535; this one is {}",
                endpoint.port
            ),
        )
    })?;
    Ok((address(&endpoint.address)?, port).into())
}

/// The message for an address and a port.
pub fn endpoint(address: SocketAddr) -> v1::Endpoint {
    v1::Endpoint {
        address: address_bytes(address.ip()),
        port: address.port().into(),
    }
}

pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl TryFrom<v1::Provider> for Provider {
    type Error = Error;

    /// Errors: FWP_E_INVALID_PARAMETER, …INVALID_FLAGS.
    fn try_from(wire: v1::Provider) -> Result<Self, Error> {
        Ok(Self {
            identity: identity(&wire.key, wire.name, wire.description)?,
            lifetime: lifetime(wire.flags, PERSISTENT)?,
            service_name: Some(wire.service_name).filter(|name| !name.is_empty()),
        })
    }
}

impl From<&Provider> for v1::Provider {
    fn from(provider: &Provider) -> Self {
        Self {
            key: key_bytes(provider.identity.key),
            name: provider.identity.name.clone(),
            description: provider.identity.description.clone(),
            flags: lifetime_flags(provider.lifetime),
            lifetime: wire_lifetime(provider.lifetime).into(),
            service_name: provider.service_name.clone().unwrap_or_default(),
            user: 0,
        }
    }
}

impl TryFrom<v1::Sublayer> for Sublayer {
    type Error = Error;

    /// Errors: FWP_E_INVALID_PARAMETER, …INVALID_FLAGS, …OUT_OF_BOUNDS.
    fn try_from(wire: v1::Sublayer) -> Result<Self, Error> {
        Ok(Self {
            identity: identity(&wire.key, wire.name, wire.description)?,
            lifetime: lifetime(wire.flags, PERSISTENT)?,
            provider: key(&wire.provider)?,
            weight: u16::try_from(wire.weight).map_err(|_| {
                Error::new(
                    Code::OutOfBounds,
                    format!(
                        "the weight of a sublayer must be from 0 to 65535; this one is {}",
                        wire.weight
                    ),
                )
            })?,
        })
    }
}

impl From<&Sublayer> for v1::Sublayer {
    fn from(sublayer: &Sublayer) -> Self {
        Self {
            key: key_bytes(sublayer.identity.key),
            name: sublayer.identity.name.clone(),
            description: sublayer.identity.description.clone(),
            flags: lifetime_flags(sublayer.lifetime),
            lifetime: wire_lifetime(sublayer.lifetime).into(),
            provider: sublayer.provider.map(key_bytes).unwrap_or_default(),
            weight: sublayer.weight.into(),
            user: 0,
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = Error;

    /// Errors: FWP_E_INVALID_PARAMETER, …INVALID_FLAGS, …INVALID_ENUMERATOR, …NULL_POINTER,
    /// …ZERO_LENGTH_ARRAY.
    fn try_from(wire: v1::Service) -> Result<Self, Error> {
        Ok(Self {
            identity: identity(&wire.key, wire.name, wire.description)?,
            lifetime: lifetime(wire.flags, PERSISTENT)?,
            provider: key(&wire.provider)?,
            records: match v1::Records::try_from(wire.records) {
                Ok(v1::Records::Unspecified | v1::Records::Required) => RecordsMode::Required,
                Ok(v1::Records::RequiredOrOwn) => RecordsMode::RequiredOrOwn,
                Ok(v1::Records::Legacy) => RecordsMode::Legacy,
                Err(_) => return Err(no_such("records mode", wire.records)),
            },
            records_bound: wire.records_bound,
            connect: match v1::Connect::try_from(wire.connect) {
                Ok(v1::Connect::Unspecified | v1::Connect::Accepted) => ConnectMode::Accepted,
                Ok(v1::Connect::Pended) => ConnectMode::Pended,
                Err(_) => return Err(no_such("connect mode", wire.connect)),
            },
            on_absent: absent(wire.on_absent)?.unwrap_or_default(),
            context: wire.context.map(context).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        let records = match service.records {
            RecordsMode::Required => v1::Records::Required,
            RecordsMode::RequiredOrOwn => v1::Records::RequiredOrOwn,
            RecordsMode::Legacy => v1::Records::Legacy,
        };
        let connect = match service.connect {
            ConnectMode::Accepted => v1::Connect::Accepted,
            ConnectMode::Pended => v1::Connect::Pended,
        };
        Self {
            key: key_bytes(service.identity.key),
            name: service.identity.name.clone(),
            description: service.identity.description.clone(),
            flags: lifetime_flags(service.lifetime),
            lifetime: wire_lifetime(service.lifetime).into(),
            provider: service.provider.map(key_bytes).unwrap_or_default(),
            records: records.into(),
            on_absent: wire_absent(Some(service.on_absent)).into(),
            context: Some(wire_context(&service.context)),
            listening: false,
            listeners: None,
            user: 0,
            records_bound: service.records_bound,
            connect: connect.into(),
        }
    }
}

impl From<Listeners> for v1::Listeners {
    fn from(listeners: Listeners) -> Self {
        Self {
            tcp_v4: listeners.tcp4,
            tcp_v6: listeners.tcp6,
            udp_v4: listeners.udp4,
            udp_v6: listeners.udp6,
        }
    }
}

impl From<v1::Listeners> for Listeners {
    fn from(wire: v1::Listeners) -> Self {
        Self {
            tcp4: wire.tcp_v4,
            tcp6: wire.tcp_v6,
            udp4: wire.udp_v4,
            udp6: wire.udp_v6,
        }
    }
}

impl TryFrom<v1::Filter> for Filter {
    type Error = Error;

    /// Errors: FWP_E_INVALID_PARAMETER, …INVALID_FLAGS, …LAYER_NOT_FOUND, …INVALID_ENUMERATOR,
    /// …NULL_POINTER, …INVALID_ACTION_TYPE, …ZERO_LENGTH_ARRAY, and those of conditions. Everything
    /// else is checked by [`Filter::check`].
    fn try_from(wire: v1::Filter) -> Result<Self, Error> {
        let all = PERSISTENT | BOOT_TIME | CLEAR_ACTION_RIGHT | DISABLED;
        let conditions = wire.conditions.into_iter().map(TryInto::try_into);
        Ok(Self {
            identity: identity(&wire.key, wire.name, wire.description)?,
            lifetime: lifetime(wire.flags, all)?,
            provider: key(&wire.provider)?,
            layer: layer(wire.layer)?,
            sublayer: key(&wire.sublayer)?.unwrap_or(SUBLAYER_UNIVERSAL),
            weight: weight(wire.weight),
            conditions: conditions.collect::<Result<_, _>>()?,
            action: action(wire.action, &wire.service)?,
            clear_action_right: wire.flags & CLEAR_ACTION_RIGHT != 0,
            disabled: wire.flags & DISABLED != 0,
            on_absent: absent(wire.on_absent)?,
            context: wire.context.map(context).transpose()?,
            id: 0,
            only_user: None,
        })
    }
}

impl From<&Filter> for v1::Filter {
    fn from(filter: &Filter) -> Self {
        let mut flags = lifetime_flags(filter.lifetime);
        if filter.clear_action_right {
            flags |= CLEAR_ACTION_RIGHT;
        }
        if filter.disabled {
            flags |= DISABLED;
        }
        Self {
            key: key_bytes(filter.identity.key),
            name: filter.identity.name.clone(),
            description: filter.identity.description.clone(),
            flags,
            lifetime: wire_lifetime(filter.lifetime).into(),
            provider: filter.provider.map(key_bytes).unwrap_or_default(),
            layer: v1::Layer::from(filter.layer).into(),
            sublayer: key_bytes(filter.sublayer),
            weight: match filter.weight {
                Weight::Literal(weight) => Some(v1::filter::Weight::Literal(weight)),
                Weight::Class(class) => Some(v1::filter::Weight::Class(class.into())),
                Weight::Auto => None,
            },
            conditions: filter.conditions.iter().map(Into::into).collect(),
            action: v1::Action::from(filter.action).into(),
            service: filter.action.service().map(key_bytes).unwrap_or_default(),
            on_absent: wire_absent(filter.on_absent).into(),
            context: filter.context.as_ref().map(wire_context),
            id: filter.id,
            effective_weight: filter.effective_weight(),
            owner: String::new(),
            user: 0,
            only_user: filter.only_user,
        }
    }
}

impl From<Layer> for v1::Layer {
    fn from(layer: Layer) -> Self {
        // The API's numbers are policy's numbers plus 1, since 0 is LAYER_UNSPECIFIED.
        let number = i32::try_from(layer.index() + 1).unwrap_or_default();
        Self::try_from(number).unwrap_or_default()
    }
}

impl From<Action> for v1::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Permit => Self::Permit,
            Action::Block => Self::Block,
            Action::Veto => Self::Veto,
            Action::Inspect => Self::Inspect,
            Action::Redirect(_) => Self::Redirect,
        }
    }
}

impl TryFrom<v1::Layer> for Layer {
    type Error = Error;

    /// Errors: FWP_E_NULL_POINTER for `LAYER_UNSPECIFIED`.
    fn try_from(wire: v1::Layer) -> Result<Self, Error> {
        layer(wire.into())
    }
}

fn layer(number: i32) -> Result<Layer, Error> {
    if number == 0 {
        return Err(Error::new(Code::NullPointer, "a filter needs a layer"));
    }
    usize::try_from(number - 1)
        .ok()
        .and_then(|index| Layer::all().nth(index))
        .ok_or_else(|| {
            Error::new(
                Code::LayerNotFound,
                format!("there is no layer with the number {number}; use 1 to 12"),
            )
        })
}

fn identity(bytes: &[u8], name: String, description: String) -> Result<Identity, Error> {
    Ok(Identity {
        key: key(bytes)?.unwrap_or_default(),
        name,
        description,
    })
}

fn lifetime(flags: u32, allowed: u32) -> Result<Lifetime, Error> {
    let unknown = flags & !allowed;
    if unknown != 0 {
        return Err(Error::new(
            Code::InvalidFlags,
            format!(
                "this kind of object does not have the flags {unknown:#x}; it can have {allowed:#x}"
            ),
        ));
    }
    match (flags & PERSISTENT != 0, flags & BOOT_TIME != 0) {
        (true, true) => Err(Error::new(
            Code::InvalidFlags,
            "a filter can be persistent or boot-time, not both; add two filters",
        )),
        (true, false) => Ok(Lifetime::Persistent),
        (false, true) => Ok(Lifetime::BootTime),
        (false, false) => Ok(Lifetime::Static),
    }
}

fn lifetime_flags(lifetime: Lifetime) -> u32 {
    match lifetime {
        Lifetime::Persistent => PERSISTENT,
        Lifetime::BootTime => BOOT_TIME,
        Lifetime::Dynamic | Lifetime::Static | Lifetime::BuiltIn => 0,
    }
}

fn wire_lifetime(lifetime: Lifetime) -> v1::Lifetime {
    match lifetime {
        Lifetime::Dynamic => v1::Lifetime::Dynamic,
        Lifetime::Static => v1::Lifetime::Static,
        Lifetime::Persistent => v1::Lifetime::Persistent,
        Lifetime::BootTime => v1::Lifetime::BootTime,
        Lifetime::BuiltIn => v1::Lifetime::BuiltIn,
    }
}

/// Converts a weight. A class above 15 is refused when the filter is checked, and so is the greatest
/// one, which stands for those that a byte cannot hold.
fn weight(wire: Option<v1::filter::Weight>) -> Weight {
    match wire {
        None => Weight::Auto,
        Some(v1::filter::Weight::Literal(weight)) => Weight::Literal(weight),
        Some(v1::filter::Weight::Class(class)) => {
            Weight::Class(u8::try_from(class).unwrap_or(u8::MAX))
        }
    }
}

fn action(number: i32, service: &[u8]) -> Result<Action, Error> {
    let service = key(service)?;
    let action = match v1::Action::try_from(number) {
        Ok(v1::Action::Permit) => Action::Permit,
        Ok(v1::Action::Block) => Action::Block,
        Ok(v1::Action::Veto) => Action::Veto,
        Ok(v1::Action::Inspect) => Action::Inspect,
        Ok(v1::Action::Redirect) => {
            return service
                .map(Action::Redirect)
                .ok_or_else(|| Error::new(Code::NullPointer, "a redirect needs a service"));
        }
        Ok(v1::Action::Unspecified) | Err(_) => {
            return Err(Error::new(
                Code::InvalidActionType,
                format!("there is no action with the number {number}; use 1 to 5"),
            ));
        }
    };
    if service.is_some() {
        return Err(Error::new(
            Code::InvalidParameter,
            format!(
                "a filter with the action {} cannot have a service; only a redirect has one",
                action.name()
            ),
        ));
    }
    Ok(action)
}

fn absent(number: i32) -> Result<Option<Absent>, Error> {
    match v1::OnAbsent::try_from(number) {
        Ok(v1::OnAbsent::Unspecified) => Ok(None),
        Ok(v1::OnAbsent::Block) => Ok(Some(Absent::Block)),
        Ok(v1::OnAbsent::Permit) => Ok(Some(Absent::Permit)),
        Err(_) => Err(no_such("on_absent", number)),
    }
}

fn wire_absent(absent: Option<Absent>) -> v1::OnAbsent {
    match absent {
        None => v1::OnAbsent::Unspecified,
        Some(Absent::Block) => v1::OnAbsent::Block,
        Some(Absent::Permit) => v1::OnAbsent::Permit,
    }
}

fn context(wire: v1::Context) -> Result<RedirectContext, Error> {
    use v1::context::Kind;
    match wire.kind {
        Some(Kind::None(_)) => Ok(RedirectContext::None),
        Some(Kind::Auto(_)) => Ok(RedirectContext::Auto),
        Some(Kind::Fixed(bytes)) if bytes.is_empty() => Err(Error::new(
            Code::ZeroLengthArray,
            "a fixed context needs at least one byte; use none if there is no context",
        )),
        Some(Kind::Fixed(bytes)) => Ok(RedirectContext::Fixed(bytes)),
        None => Err(Error::new(
            Code::NullPointer,
            "a context must be one of none, fixed and auto",
        )),
    }
}

fn wire_context(context: &RedirectContext) -> v1::Context {
    use v1::context::Kind;
    let kind = match context {
        RedirectContext::None => Kind::None(v1::context::None {}),
        RedirectContext::Fixed(bytes) => Kind::Fixed(bytes.clone()),
        RedirectContext::Auto => Kind::Auto(v1::context::Auto {}),
    };
    v1::Context { kind: Some(kind) }
}

fn no_such(what: &str, number: i32) -> Error {
    Error::new(
        Code::InvalidEnumerator,
        format!("there is no {what} with the number {number}"),
    )
}

#[cfg(test)]
mod tests;
