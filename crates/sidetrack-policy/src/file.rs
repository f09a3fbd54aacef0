//! Policy files: [`parse`] reads a policy from TOML text. docs/policy.md describes the format.
//!
//! Objects refer to each other by name. An object without a key gets [`Identity::applied_key`],
//! which is made from the owner, the kind of object and its name, so the same file always means the
//! same objects.

mod context;
mod filter;
mod finding;
mod name;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use self::context::context;
use self::finding::SpannedFinding;
pub use self::finding::{FINDINGS_MAX, Finding, Findings, Position};
use self::name::{NameKind, Names};
pub use self::schema::schema;
use self::table::{FileTable, TomlText, number, wrong_type};
pub use self::value::UserLookup;
pub(crate) use self::value::{DIRECTIONS, PROTOCOLS};
use crate::object::NAME_SIZE_MAX;
use crate::set::FILTERS_MAX;
use crate::{
    Absent, Code, Field, Identity, Lifetime, Listing, Provider, RecordsMode, Service, Sublayer,
};

/// Greatest size of a policy file, in bytes: 10 MB. A file of 10 MiB is refused.
pub const FILE_SIZE_MAX: usize = 10_000_000;
/// Owner of the objects of a file that does not name one.
pub const OWNER: &str = "local";

const ON_ABSENT: [(&str, Absent); 2] = [("block", Absent::Block), ("permit", Absent::Permit)];
const RECORDS_MODES: [(&str, RecordsMode); 3] = [
    ("required", RecordsMode::Required),
    ("required_or_own", RecordsMode::RequiredOrOwn),
    ("legacy", RecordsMode::Legacy),
];
/// A file's objects do not belong to a session, so none of them is dynamic.
const LIFETIMES: [(&str, Lifetime); 3] = [
    ("static", Lifetime::Static),
    ("persistent", Lifetime::Persistent),
    ("boot_time", Lifetime::BootTime),
];

const TOP_KEYS: [&str; 6] = [
    "owner", "defaults", "provider", "sublayer", "service", "filter",
];
const DEFAULT_KEYS: [&str; 5] = ["lifetime", "provider", "sublayer", "layer", "action"];
const PROVIDER_KEYS: [&str; 5] = ["name", "description", "key", "lifetime", "service_name"];
const SUBLAYER_KEYS: [&str; 6] = [
    "name",
    "description",
    "key",
    "lifetime",
    "provider",
    "weight",
];
const SERVICE_KEYS: [&str; 8] = [
    "name",
    "description",
    "key",
    "lifetime",
    "provider",
    "records",
    "on_absent",
    "context",
];

/// What [`parse`] needs besides the text of the file.
pub struct ParseOptions<'a> {
    /// Name of the file in findings.
    pub file: &'a str,
    /// Owner of the objects; none for the file's key `owner`, or else [`OWNER`].
    pub owner: Option<&'a str>,
    /// Objects in force, to which the file can refer by name. Objects that this owner applied are
    /// ignored, since applying the file deletes those that it does not contain.
    pub others: &'a Listing,
    /// Finds the id of a user by name.
    pub users: UserLookup<'a>,
}

/// The contents of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Owner of the objects.
    pub owner: String,
    /// All objects. Each is checked on its own, and so are its references.
    pub objects: Listing,
}

/// Reads a policy file of at most [`FILE_SIZE_MAX`] bytes. Time and memory are proportional to its
/// size.
///
/// Errors: everything that is wrong with the file, up to [`FINDINGS_MAX`] findings. After a syntax
/// error, the rest of the file is not examined.
///
/// ```
/// use sidetrack_policy::Listing;
/// use sidetrack_policy::file::{ParseOptions, parse};
///
/// let options = ParseOptions {
///     file: "policy.toml",
///     owner: None,
///     others: &Listing::default(),
///     users: &|_| None,
/// };
/// let policy = parse(b"[[service]]\nname = \"inspect\"\n", &options).unwrap();
/// assert_eq!(policy.owner, "local");
/// assert_eq!(policy.objects.services[0].identity.name, "inspect");
///
/// let findings = parse(b"[[service]]\nnaem = \"inspect\"\n", &options).unwrap_err();
/// assert_eq!(findings.shown[0].position.as_ref().unwrap().line, 2);
/// ```
pub fn parse(text: &[u8], options: &ParseOptions<'_>) -> Result<Policy, Findings> {
    if text.len() > FILE_SIZE_MAX {
        let message = format!("{} has {} bytes", options.file, text.len());
        let advice = "a policy file can have at most 10,000,000";
        return Err(Findings::of_file(message, advice));
    }
    let fail = |findings| Findings::new(options.file, text, findings);
    let text_read = decode(text).map_err(|finding| fail(vec![finding]))?;
    let document = DeTable::parse(text_read).map_err(|error| fail(vec![syntax_error(&error)]))?;
    let mut reader = Reader {
        owner: String::new(),
        names: Names::default(),
        users: options.users,
        defaults: None,
        objects: Listing::default(),
        keys: HashSet::new(),
        findings: Vec::new(),
    };
    reader.read(document.get_ref(), options);
    match reader.findings.is_empty() {
        true => Ok(Policy {
            owner: reader.owner,
            objects: reader.objects,
        }),
        false => Err(fail(reader.findings)),
    }
}

/// The text of a file, if it is UTF-8 without NUL bytes.
fn decode(text: &[u8]) -> Result<&str, SpannedFinding> {
    if let Some(at) = text.iter().position(|&byte| byte == 0) {
        return Err(
            SpannedFinding::new(at..at + 1, "the file contains a NUL byte")
                .advice("a policy file is a text file"),
        );
    }
    std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        SpannedFinding::new(at..at + 1, "the file is not UTF-8").advice("save it as UTF-8")
    })
}

fn syntax_error(error: &toml::de::Error) -> SpannedFinding {
    let message = match error.message() {
        deep if deep.contains("recursion") => "tables or lists are nested too deeply",
        other => other,
    };
    SpannedFinding::new(error.span().unwrap_or(0..0), message)
}

/// The state of reading a file.
struct Reader<'d, 'a> {
    owner: String,
    names: Names,
    users: UserLookup<'a>,
    defaults: Option<&'d DeTable<'d>>,
    objects: Listing,
    /// Kinds and keys of the objects read so far.
    keys: HashSet<(&'static str, Uuid)>,
    findings: Vec<SpannedFinding>,
}

impl<'d> Reader<'d, '_> {
    /// Reads all objects, each kind before the kinds that refer to it.
    fn read(&mut self, document: &'d DeTable<'d>, options: &ParseOptions<'_>) {
        let top = FileTable {
            what: "a policy",
            table: document,
            defaults: None,
            span: 0..0,
        };
        if let Err(finding) = self.read_top(&top, options.owner) {
            return self.findings.push(finding);
        }
        self.names = Names::in_force(options.others, &self.owner);
        self.read_entries(document, "provider", "a provider", Self::provider_entry);
        self.read_entries(document, "sublayer", "a sublayer", Self::sublayer_entry);
        self.read_entries(document, "service", "a service", Self::service_entry);
        let fields = Field::ALL.map(Field::name);
        let known: Vec<_> = filter::KEYS.into_iter().chain(fields).collect();
        self.read_entries(document, "filter", "a filter", |reader, entry| {
            reader.filter_entry(entry, &known)
        });
    }

    /// Reads the owner and the defaults.
    fn read_top(&mut self, top: &FileTable<'d>, owner: Option<&str>) -> Result<(), SpannedFinding> {
        top.check_keys(&TOP_KEYS)?;
        let written = top.text("owner")?;
        if let Some(TomlText { text, span }) = &written
            && (text.is_empty() || text.len() > NAME_SIZE_MAX || text.contains(char::is_control))
        {
            let message = format!(
                "the name of an owner must have 1 to {NAME_SIZE_MAX} bytes and no control characters"
            );
            return Err(SpannedFinding::new(span.clone(), message).code(Code::OutOfBounds));
        }
        let written = written.map_or(OWNER, |owner| owner.text);
        self.owner = owner.unwrap_or(written).to_owned();
        if let Some(value) = top.get("defaults") {
            let defaults = FileTable::of("defaults", value)?;
            defaults.check_keys(&DEFAULT_KEYS)?;
            self.defaults = Some(defaults.table);
        }
        Ok(())
    }

    /// Reads all entries of a kind and collects what is wrong with them.
    fn read_entries(
        &mut self,
        document: &'d DeTable<'d>,
        kind: &str,
        what: &'static str,
        read: impl Fn(&mut Self, &FileTable<'d>) -> Result<(), SpannedFinding>,
    ) {
        let Some(value) = document.get(kind) else {
            return;
        };
        let DeValue::Array(list) = value.get_ref() else {
            let finding = wrong_type(kind, "a list", value).advice(format!("write [[{kind}]]"));
            return self.findings.push(finding);
        };
        for each in list.iter() {
            if self.findings.len() >= FINDINGS_MAX {
                return;
            }
            let entry = FileTable::of(what, each).map(|entry| FileTable {
                defaults: self.defaults,
                ..entry
            });
            if let Err(finding) = entry.and_then(|entry| read(self, &entry)) {
                self.findings.push(finding);
            }
        }
    }

    fn provider_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedFinding> {
        entry.check_keys(&PROVIDER_KEYS)?;
        let provider = Provider {
            identity: self.identity_with_key("provider", entry)?,
            lifetime: self.lifetime_but_boot_time(entry)?,
            service_name: entry.text("service_name")?.map(|unit| unit.text.to_owned()),
        };
        provider
            .check()
            .map_err(|error| SpannedFinding::of(name_span(entry), error))?;
        self.register(
            NameKind::Provider,
            entry,
            &provider.identity,
            provider.lifetime,
        )?;
        self.objects.providers.push(provider);
        Ok(())
    }

    fn sublayer_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedFinding> {
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
        sublayer
            .check()
            .map_err(|error| SpannedFinding::of(name_span(entry), error))?;
        self.register(NameKind::Sublayer, entry, &sublayer.identity, lifetime)?;
        self.objects.sublayers.push(sublayer);
        Ok(())
    }

    fn service_entry(&mut self, entry: &FileTable<'d>) -> Result<(), SpannedFinding> {
        entry.check_keys(&SERVICE_KEYS)?;
        let lifetime = self.lifetime_but_boot_time(entry)?;
        let service = Service {
            identity: self.identity_with_key("service", entry)?,
            lifetime,
            provider: self.provider(entry, lifetime)?,
            records: entry.choice("records", &RECORDS_MODES)?.unwrap_or_default(),
            on_absent: entry.choice("on_absent", &ON_ABSENT)?.unwrap_or_default(),
            context: context(entry)?.unwrap_or_default(),
        };
        service
            .check()
            .map_err(|error| SpannedFinding::of(name_span(entry), error))?;
        self.register(NameKind::Service, entry, &service.identity, lifetime)?;
        self.objects.services.push(service);
        Ok(())
    }

    fn filter_entry(
        &mut self,
        entry: &FileTable<'d>,
        known: &[&str],
    ) -> Result<(), SpannedFinding> {
        for filter in filter::read(self, entry, known)? {
            if self.objects.filters.len() == FILTERS_MAX {
                let message = format!("a policy can have at most {FILTERS_MAX} filters");
                return Err(
                    SpannedFinding::new(entry.span.clone(), message).code(Code::OutOfBounds)
                );
            }
            self.check_unique("filter", entry, &filter.identity)?;
            self.objects.filters.push(filter);
        }
        Ok(())
    }

    /// Makes an object known, so that others can refer to it.
    fn register(
        &mut self,
        kind: NameKind,
        entry: &FileTable<'d>,
        identity: &Identity,
        lifetime: Lifetime,
    ) -> Result<(), SpannedFinding> {
        self.check_unique(kind.name(), entry, identity)?;
        self.names.add(kind, &identity.name, identity.key, lifetime);
        Ok(())
    }

    fn check_unique(
        &mut self,
        kind: &'static str,
        entry: &FileTable<'d>,
        identity: &Identity,
    ) -> Result<(), SpannedFinding> {
        if self.keys.insert((kind, identity.key)) {
            return Ok(());
        }
        let message = format!(
            "a {kind} above has the same name or the same key as {:?}",
            identity.name
        );
        Err(SpannedFinding::new(name_span(entry), message)
            .code(Code::AlreadyExists)
            .advice("choose another name or key"))
    }

    /// The key of an object without an explicit one.
    fn key(&self, kind: &str, name: &str) -> Uuid {
        Identity::applied_key(&self.owner, kind, name)
    }

    /// The names of an entry, without a key.
    fn identity(&self, kind: &str, entry: &FileTable<'_>) -> Result<Identity, SpannedFinding> {
        let name = entry.require("name", &format!("name = \"my {kind}\""))?;
        let description = entry.text("description")?;
        Ok(Identity {
            key: Uuid::nil(),
            name: table::text("name", name)?.text.to_owned(),
            description: description.map_or(String::new(), |text| text.text.to_owned()),
        })
    }

    /// The names and the key of an entry.
    fn identity_with_key(
        &self,
        kind: &str,
        entry: &FileTable<'_>,
    ) -> Result<Identity, SpannedFinding> {
        let identity = self.identity(kind, entry)?;
        let key = match entry.text("key")? {
            Some(key) => explicit_key(&key)?,
            None => self.key(kind, &identity.name),
        };
        Ok(Identity { key, ..identity })
    }

    fn lifetime(&self, entry: &FileTable<'_>) -> Result<Lifetime, SpannedFinding> {
        if let Some(TomlText {
            text: "dynamic",
            span,
        }) = entry.text("lifetime")?
        {
            let message = "a dynamic object belongs to a session, and an object of a file does not";
            return Err(SpannedFinding::new(span, message)
                .code(Code::InvalidFlags)
                .advice("use static or persistent"));
        }
        Ok(entry.choice("lifetime", &LIFETIMES)?.unwrap_or_default())
    }

    /// The lifetime of an object that is not a filter, and so cannot be boot-time.
    fn lifetime_but_boot_time(&self, entry: &FileTable<'_>) -> Result<Lifetime, SpannedFinding> {
        match (self.lifetime(entry)?, entry.table.get("lifetime")) {
            (Lifetime::BootTime, Some(value)) => {
                let message = "only filters can have the lifetime boot_time";
                Err(SpannedFinding::new(value.span(), message)
                    .code(Code::InvalidFlags)
                    .advice("did you mean persistent?"))
            }
            // The lifetime comes from the defaults, where it is meant for filters.
            (Lifetime::BootTime, None) => Ok(Lifetime::Persistent),
            (lifetime, _) => Ok(lifetime),
        }
    }

    fn provider(
        &self,
        entry: &FileTable<'_>,
        lifetime: Lifetime,
    ) -> Result<Option<Uuid>, SpannedFinding> {
        let name = entry.text("provider")?;
        name.map(|name| self.names.resolve(NameKind::Provider, &name, lifetime))
            .transpose()
    }
}

fn name_span(entry: &FileTable<'_>) -> Range<usize> {
    entry
        .get("name")
        .map_or(entry.span.clone(), |value| value.span())
}

fn explicit_key(TomlText { text, span }: &TomlText<'_>) -> Result<Uuid, SpannedFinding> {
    match text.parse::<Uuid>() {
        Ok(key) if !key.is_nil() => Ok(key),
        _ => {
            let message = format!("{text:?} is not a key, which is a UUID other than zero");
            Err(SpannedFinding::new(span.clone(), message)
                .code(Code::InvalidParameter)
                .advice("leave the key out, and one is made from the name"))
        }
    }
}
