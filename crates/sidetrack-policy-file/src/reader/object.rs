//! The entries `[[provider]]`, `[[sublayer]]` and `[[service]]`, and the keys that all entries have.

use sidetrack_policy::object::{InvalidPart, ObjectPart};
use sidetrack_policy::{
    Absent, Code, ConnectMode, Identity, Lifetime, Provider, RecordsMode, Service, Sublayer, Uuid,
};

use super::Reader;
use crate::context::context;
use crate::error::SpannedError;
use crate::name::NameKind;
use crate::table::{FileTable, TomlText, number, text};

/// Values of `on_absent`.
pub(super) const ON_ABSENT: [(&str, Absent); 2] =
    [("block", Absent::Block), ("permit", Absent::Permit)];
/// Values of `records`.
const RECORDS_MODES: [(&str, RecordsMode); 3] = [
    ("required", RecordsMode::Required),
    ("required_or_own", RecordsMode::RequiredOrOwn),
    ("legacy", RecordsMode::Legacy),
];
/// Values of `connect`.
const CONNECT_MODES: [(&str, ConnectMode); 2] = [
    ("accepted", ConnectMode::Accepted),
    ("pended", ConnectMode::Pended),
];
/// Values of `lifetime`. A file's objects do not belong to a session, so none of them is dynamic.
const LIFETIMES: [(&str, Lifetime); 3] = [
    ("static", Lifetime::Static),
    ("persistent", Lifetime::Persistent),
    ("boot_time", Lifetime::BootTime),
];

pub(super) const PROVIDER_KEYS: [&str; 5] =
    ["name", "description", "key", "lifetime", "service_name"];
pub(super) const SUBLAYER_KEYS: [&str; 6] = [
    "name",
    "description",
    "key",
    "lifetime",
    "provider",
    "weight",
];
pub(super) const SERVICE_KEYS: [&str; 10] = [
    "name",
    "description",
    "key",
    "lifetime",
    "provider",
    "records",
    "records_bound",
    "connect",
    "on_absent",
    "context",
];

impl<'d> Reader<'d, '_> {
    pub(super) fn provider_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedError> {
        entry.check_keys(&PROVIDER_KEYS)?;
        let provider = Provider {
            identity: self.identity_with_key("provider", entry)?,
            lifetime: self.lifetime_but_boot_time(entry)?,
            service_name: entry.text("service_name")?.map(|unit| unit.text.to_owned()),
        };
        provider.check().map_err(|invalid| error(entry, invalid))?;
        self.register(
            NameKind::Provider,
            entry,
            &provider.identity,
            provider.lifetime,
        )?;
        self.objects.providers.push(provider);
        Ok(())
    }

    pub(super) fn sublayer_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedError> {
        entry.check_keys(&SUBLAYER_KEYS)?;
        let lifetime = self.lifetime_but_boot_time(entry)?;
        let weight = entry
            .get("weight")
            .map(|value| number("weight", value, u16::MAX.into()));
        let sublayer = Sublayer {
            identity: self.identity_with_key("sublayer", entry)?,
            lifetime,
            provider: self.provider(entry, lifetime)?,
            weight: weight.transpose()?.unwrap_or(0) as u16,
        };
        sublayer.check().map_err(|invalid| error(entry, invalid))?;
        self.register(NameKind::Sublayer, entry, &sublayer.identity, lifetime)?;
        self.objects.sublayers.push(sublayer);
        Ok(())
    }

    pub(super) fn service_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedError> {
        entry.check_keys(&SERVICE_KEYS)?;
        let lifetime = self.lifetime_but_boot_time(entry)?;
        let service = Service {
            identity: self.identity_with_key("service", entry)?,
            lifetime,
            provider: self.provider(entry, lifetime)?,
            records: entry.choice("records", &RECORDS_MODES)?.unwrap_or_default(),
            records_bound: entry.flag("records_bound")?,
            connect: entry.choice("connect", &CONNECT_MODES)?.unwrap_or_default(),
            on_absent: entry.choice("on_absent", &ON_ABSENT)?.unwrap_or_default(),
            context: context(entry)?.unwrap_or_default(),
        };
        service.check().map_err(|invalid| error(entry, invalid))?;
        self.register(NameKind::Service, entry, &service.identity, lifetime)?;
        self.objects.services.push(service);
        Ok(())
    }

    /// The key of an object without an explicit one.
    pub(super) fn key(&self, kind: &str, name: &str) -> Uuid {
        Identity::applied_key(&self.owner, kind, name)
    }

    /// The names of an entry, without a key.
    pub(super) fn identity(
        &self,
        kind: &str,
        entry: &FileTable<'_>,
    ) -> Result<Identity, SpannedError> {
        let name = entry.require("name", &format!("name = \"my {kind}\""))?;
        let description = entry.text("description")?;
        Ok(Identity {
            key: Uuid::nil(),
            name: text("name", name)?.text.to_owned(),
            description: description.map_or(String::new(), |text| text.text.to_owned()),
        })
    }

    /// The names and the key of an entry.
    fn identity_with_key(
        &self,
        kind: &str,
        entry: &FileTable<'_>,
    ) -> Result<Identity, SpannedError> {
        let identity = self.identity(kind, entry)?;
        let key = match entry.text("key")? {
            Some(key) => explicit_key(&key)?,
            None => self.key(kind, &identity.name),
        };
        Ok(Identity { key, ..identity })
    }

    pub(super) fn lifetime(&self, entry: &FileTable<'_>) -> Result<Lifetime, SpannedError> {
        if let Some(TomlText {
            text: "dynamic",
            span,
        }) = entry.text("lifetime")?
        {
            let message = "a dynamic object belongs to a session, and an object of a file does not";
            return Err(SpannedError::new(span, message)
                .code(Code::InvalidFlags)
                .advice("use static or persistent"));
        }
        Ok(entry.choice("lifetime", &LIFETIMES)?.unwrap_or_default())
    }

    /// The lifetime of an object that is not a filter, and so cannot be boot-time.
    fn lifetime_but_boot_time(&self, entry: &FileTable<'_>) -> Result<Lifetime, SpannedError> {
        match (self.lifetime(entry)?, entry.table.get("lifetime")) {
            (Lifetime::BootTime, Some(value)) => {
                let message = "only filters can have the lifetime boot_time";
                Err(SpannedError::new(value.span(), message)
                    .code(Code::InvalidFlags)
                    .advice("did you mean persistent?"))
            }
            // The lifetime comes from the defaults, where it is meant for filters.
            (Lifetime::BootTime, None) => Ok(Lifetime::Persistent),
            (lifetime, _) => Ok(lifetime),
        }
    }

    pub(super) fn provider(
        &self,
        entry: &FileTable<'_>,
        lifetime: Lifetime,
    ) -> Result<Option<Uuid>, SpannedError> {
        let name = entry.text("provider")?;
        name.map(|name| self.names.resolve(NameKind::Provider, &name, lifetime))
            .transpose()
    }
}

/// The error about an invalid part of an object, at the position of the part in the entry.
pub(super) fn error(entry: &FileTable<'_>, invalid: InvalidPart) -> SpannedError {
    let span = match invalid.part {
        ObjectPart::Name => entry.span_of("name"),
        ObjectPart::Description => entry.span_of("description"),
        ObjectPart::Context => entry.inner_span_of("context"),
        ObjectPart::Records => entry.span_of("records"),
        ObjectPart::Connect => entry.span_of("connect"),
        ObjectPart::Weight => entry.inner_span_of("weight"),
        ObjectPart::Action => entry.span_of("action"),
        ObjectPart::RedirectOptions if entry.get("on_absent").is_some() => {
            entry.span_of("on_absent")
        }
        ObjectPart::RedirectOptions => entry.span_of("context"),
        ObjectPart::Conditions | ObjectPart::Condition(_) | ObjectPart::Field(_) => {
            entry.span.clone()
        }
    };
    SpannedError::of(span, invalid.error)
}

/// Reads a key that the file gives.
pub(super) fn explicit_key(TomlText { text, span }: &TomlText<'_>) -> Result<Uuid, SpannedError> {
    match text.parse::<Uuid>() {
        Ok(key) if !key.is_nil() => Ok(key),
        _ => {
            let message = format!("{text:?} is not a key, which is a UUID other than zero");
            Err(SpannedError::new(span.clone(), message)
                .code(Code::InvalidParameter)
                .advice("leave the key out, and one is made from the name"))
        }
    }
}
