//! A policy as a file of TOML: text in, objects out. docs/policy.md is its page.
//!
//! Names stand for keys: an object that gives no key has one made of the owner, its kind and its
//! name, so the same file means the same objects each time.

mod context;
mod entry;
mod fault;
mod filter;
mod name;
mod schema;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use self::context::context;
use self::entry::{Entry, Text, number, wrong_type};
use self::fault::Mark;
pub use self::fault::{FAULTS_MAX, Fault, Faults, Place};
use self::name::{Kind, Names};
pub use self::schema::schema;
pub use self::value::Users;
pub(crate) use self::value::{DIRECTIONS, PROTOCOLS};
use crate::object::NAME_SIZE_MAX;
use crate::set::FILTERS_MAX;
use crate::{
    Absent, Code, Field, Identity, Lifetime, Listing, Provider, Records, Service, Sublayer,
};

/// Bytes of a file: 10 MB, so one of 10 MiB is refused.
pub const FILE_SIZE_MAX: usize = 10_000_000;
/// Whose the objects of a file are that names no owner.
pub const OWNER: &str = "local";

const ABSENTS: [(&str, Absent); 2] = [("block", Absent::Block), ("permit", Absent::Permit)];
const RECORDS: [(&str, Records); 3] = [
    ("required", Records::Required),
    ("required_or_own", Records::RequiredOrOwn),
    ("legacy", Records::Legacy),
];
/// A file's objects are nobody's session, so none of them is dynamic.
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

/// What reading a file needs to know besides its text.
pub struct Surroundings<'a> {
    /// What the file is called in faults.
    pub file: &'a str,
    /// Whose the objects are; none: the file's `owner`, or [`OWNER`].
    pub owner: Option<&'a str>,
    /// Objects outside of the file, to which it may refer by name, but for those that this owner
    /// applied: they go, unless the file has them too.
    pub others: &'a Listing,
    /// Finds a user's number.
    pub users: Users<'a>,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whose the objects are.
    pub owner: String,
    /// All of them, checked, each by itself and what it refers to.
    pub objects: Listing,
}

/// Reads a file. It takes time and memory in proportion to its size, of at most [`FILE_SIZE_MAX`].
///
/// Errors: all that is wrong with it, up to [`FAULTS_MAX`] faults. A fault of syntax hides the rest.
pub fn parse(text: &[u8], surroundings: &Surroundings<'_>) -> Result<Policy, Faults> {
    if text.len() > FILE_SIZE_MAX {
        let message = format!("{} has {} bytes", surroundings.file, text.len());
        return Err(Faults::whole(message, "a policy has at most 10,000,000"));
    }
    let fail = |marks| Faults::new(surroundings.file, text, marks);
    let readable = readable(text).map_err(|mark| fail(vec![mark]))?;
    let document = DeTable::parse(readable).map_err(|error| fail(vec![syntax(&error)]))?;
    let mut reader = Reader {
        owner: String::new(),
        names: Names::default(),
        users: surroundings.users,
        defaults: None,
        objects: Listing::default(),
        keys: HashSet::new(),
        marks: Vec::new(),
    };
    reader.read(document.get_ref(), surroundings);
    match reader.marks.is_empty() {
        true => Ok(Policy {
            owner: reader.owner,
            objects: reader.objects,
        }),
        false => Err(fail(reader.marks)),
    }
}

fn readable(text: &[u8]) -> Result<&str, Mark> {
    if let Some(at) = text.iter().position(|&byte| byte == 0) {
        return Err(Mark::new(at..at + 1, "there is a NUL in the file").advice("it is not a text"));
    }
    std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        Mark::new(at..at + 1, "the file is not UTF-8").advice("save it as UTF-8")
    })
}

fn syntax(error: &toml::de::Error) -> Mark {
    let message = match error.message() {
        deep if deep.contains("recursion") => "tables or lists are nested too deeply",
        other => other,
    };
    Mark::new(error.span().unwrap_or(0..0), message)
}

/// A file that is being read.
struct Reader<'d, 'a> {
    owner: String,
    names: Names,
    users: Users<'a>,
    defaults: Option<&'d DeTable<'d>>,
    objects: Listing,
    /// Those given, with their kinds.
    keys: HashSet<(&'static str, Uuid)>,
    marks: Vec<Mark>,
}

impl<'d> Reader<'d, '_> {
    /// Objects are read before those that refer to them.
    fn read(&mut self, document: &'d DeTable<'d>, surroundings: &Surroundings<'_>) {
        let top = Entry {
            what: "a policy",
            table: document,
            defaults: None,
            span: 0..0,
        };
        if let Err(mark) = self.head(&top, surroundings.owner) {
            return self.marks.push(mark);
        }
        self.names = Names::outside(surroundings.others, &self.owner);
        self.each(document, "provider", "a provider", Self::provider_entry);
        self.each(document, "sublayer", "a sublayer", Self::sublayer_entry);
        self.each(document, "service", "a service", Self::service_entry);
        let fields = Field::ALL.map(Field::name);
        let known: Vec<_> = filter::KEYS.into_iter().chain(fields).collect();
        self.each(document, "filter", "a filter", |reader, entry| {
            reader.filter_entry(entry, &known)
        });
    }

    fn head(&mut self, top: &Entry<'d>, owner: Option<&str>) -> Result<(), Mark> {
        top.check_keys(&TOP_KEYS)?;
        let written = top.text("owner")?;
        if let Some(Text { text, span }) = &written
            && (text.is_empty() || text.len() > NAME_SIZE_MAX || text.contains(char::is_control))
        {
            let message = format!("an owner has 1 to {NAME_SIZE_MAX} bytes, none of control");
            return Err(Mark::new(span.clone(), message).code(Code::OutOfBounds));
        }
        let written = written.map_or(OWNER, |owner| owner.text);
        self.owner = owner.unwrap_or(written).to_owned();
        if let Some(value) = top.get("defaults") {
            let defaults = Entry::of("defaults", value)?;
            defaults.check_keys(&DEFAULT_KEYS)?;
            self.defaults = Some(defaults.table);
        }
        Ok(())
    }

    /// Reads all entries of a kind, and notes what is wrong with each.
    fn each(
        &mut self,
        document: &'d DeTable<'d>,
        kind: &str,
        what: &'static str,
        read: impl Fn(&mut Self, &Entry<'d>) -> Result<(), Mark>,
    ) {
        let Some(value) = document.get(kind) else {
            return;
        };
        let DeValue::Array(list) = value.get_ref() else {
            let mark = wrong_type(kind, "a list", value).advice(format!("write [[{kind}]]"));
            return self.marks.push(mark);
        };
        for each in list.iter() {
            if self.marks.len() >= FAULTS_MAX {
                return;
            }
            let entry = Entry::of(what, each).map(|entry| Entry {
                defaults: self.defaults,
                ..entry
            });
            if let Err(mark) = entry.and_then(|entry| read(self, &entry)) {
                self.marks.push(mark);
            }
        }
    }

    fn provider_entry(&mut self, entry: &Entry<'d>) -> Result<(), Mark> {
        entry.check_keys(&PROVIDER_KEYS)?;
        let provider = Provider {
            identity: self.keyed("provider", entry)?,
            lifetime: self.lasting(entry)?,
            service_name: entry.text("service_name")?.map(|unit| unit.text.to_owned()),
        };
        provider
            .check()
            .map_err(|error| Mark::of(name_span(entry), error))?;
        self.enter(Kind::Provider, entry, &provider.identity, provider.lifetime)?;
        self.objects.providers.push(provider);
        Ok(())
    }

    fn sublayer_entry(&mut self, entry: &Entry<'d>) -> Result<(), Mark> {
        entry.check_keys(&SUBLAYER_KEYS)?;
        let lifetime = self.lasting(entry)?;
        let weight = entry
            .get("weight")
            .map(|value| number("weight", value, u16::MAX.into()));
        let sublayer = Sublayer {
            identity: self.keyed("sublayer", entry)?,
            lifetime,
            provider: self.provider(entry, lifetime)?,
            weight: weight.transpose()?.unwrap_or(0) as u16,
        };
        sublayer
            .check()
            .map_err(|error| Mark::of(name_span(entry), error))?;
        self.enter(Kind::Sublayer, entry, &sublayer.identity, lifetime)?;
        self.objects.sublayers.push(sublayer);
        Ok(())
    }

    fn service_entry(&mut self, entry: &Entry<'d>) -> Result<(), Mark> {
        entry.check_keys(&SERVICE_KEYS)?;
        let lifetime = self.lasting(entry)?;
        let service = Service {
            identity: self.keyed("service", entry)?,
            lifetime,
            provider: self.provider(entry, lifetime)?,
            records: entry.choice("records", &RECORDS)?.unwrap_or_default(),
            on_absent: entry.choice("on_absent", &ABSENTS)?.unwrap_or_default(),
            context: context(entry)?.unwrap_or_default(),
        };
        service
            .check()
            .map_err(|error| Mark::of(name_span(entry), error))?;
        self.enter(Kind::Service, entry, &service.identity, lifetime)?;
        self.objects.services.push(service);
        Ok(())
    }

    fn filter_entry(&mut self, entry: &Entry<'d>, known: &[&str]) -> Result<(), Mark> {
        for filter in filter::read(self, entry, known)? {
            if self.objects.filters.len() == FILTERS_MAX {
                let message = format!("a policy has at most {FILTERS_MAX} filters");
                return Err(Mark::new(entry.span.clone(), message).code(Code::OutOfBounds));
            }
            self.unique("filter", entry, &filter.identity)?;
            self.objects.filters.push(filter);
        }
        Ok(())
    }

    fn enter(
        &mut self,
        kind: Kind,
        entry: &Entry<'d>,
        identity: &Identity,
        lifetime: Lifetime,
    ) -> Result<(), Mark> {
        self.unique(kind.name(), entry, identity)?;
        self.names.add(kind, &identity.name, identity.key, lifetime);
        Ok(())
    }

    fn unique(
        &mut self,
        kind: &'static str,
        entry: &Entry<'d>,
        identity: &Identity,
    ) -> Result<(), Mark> {
        if self.keys.insert((kind, identity.key)) {
            return Ok(());
        }
        let message = format!("there is a {kind} {:?} already", identity.name);
        Err(Mark::new(name_span(entry), message)
            .code(Code::AlreadyExists)
            .advice("above, in this file"))
    }

    fn key(&self, kind: &str, name: &str) -> Uuid {
        Identity::applied_key(&self.owner, kind, name)
    }

    /// Names, without a key.
    fn identity(&self, kind: &str, entry: &Entry<'_>) -> Result<Identity, Mark> {
        let name = entry.require("name", &format!("name = \"my {kind}\""))?;
        let description = entry.text("description")?;
        Ok(Identity {
            key: Uuid::nil(),
            name: entry::text("name", name)?.text.to_owned(),
            description: description.map_or(String::new(), |text| text.text.to_owned()),
        })
    }

    fn keyed(&self, kind: &str, entry: &Entry<'_>) -> Result<Identity, Mark> {
        let identity = self.identity(kind, entry)?;
        let key = match entry.text("key")? {
            Some(key) => explicit_key(&key)?,
            None => self.key(kind, &identity.name),
        };
        Ok(Identity { key, ..identity })
    }

    fn lifetime(&self, entry: &Entry<'_>) -> Result<Lifetime, Mark> {
        if let Some(Text {
            text: "dynamic",
            span,
        }) = entry.text("lifetime")?
        {
            let message = "a dynamic object lives as long as its session, and a file has none";
            return Err(Mark::new(span, message).code(Code::InvalidFlags));
        }
        Ok(entry.choice("lifetime", &LIFETIMES)?.unwrap_or_default())
    }

    /// Of objects that are not filters.
    fn lasting(&self, entry: &Entry<'_>) -> Result<Lifetime, Mark> {
        match (self.lifetime(entry)?, entry.table.get("lifetime")) {
            (Lifetime::BootTime, Some(value)) => {
                let message = "only filters are of boot time";
                Err(Mark::new(value.span(), message)
                    .code(Code::InvalidFlags)
                    .advice("did you mean persistent?"))
            }
            // From the defaults, where it is meant for filters.
            (Lifetime::BootTime, None) => Ok(Lifetime::Persistent),
            (lifetime, _) => Ok(lifetime),
        }
    }

    fn provider(&self, entry: &Entry<'_>, lifetime: Lifetime) -> Result<Option<Uuid>, Mark> {
        let name = entry.text("provider")?;
        name.map(|name| self.names.resolve(Kind::Provider, &name, lifetime))
            .transpose()
    }
}

fn name_span(entry: &Entry<'_>) -> Range<usize> {
    entry
        .get("name")
        .map_or(entry.span.clone(), |value| value.span())
}

fn explicit_key(Text { text, span }: &Text<'_>) -> Result<Uuid, Mark> {
    match text.parse::<Uuid>() {
        Ok(key) if !key.is_nil() => Ok(key),
        _ => {
            let message = format!("{text:?} is no key");
            Err(Mark::new(span.clone(), message)
                .code(Code::InvalidParameter)
                .advice("leave it out to have one made"))
        }
    }
}
