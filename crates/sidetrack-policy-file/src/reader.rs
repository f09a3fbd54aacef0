//! Reads a policy from the tables of a file.
//!
//! Objects refer to each other by name. An object without a key gets [`Identity::applied_key`],
//! which is made from the owner, the kind of object and its name, so the same file always means the
//! same objects.

mod filter;
mod object;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use sidetrack_policy::object::NAME_SIZE_MAX;
use sidetrack_policy::set::check_owner;
use sidetrack_policy::{Code, Field, Identity, Lifetime, Uuid};
use toml::de::{DeTable, DeValue};

use crate::error::{ERRORS_MAX, FileErrors, SpannedError};
use crate::listing::Listing;
use crate::name::{NameKind, Names};
use crate::syntax::parse_tables;
use crate::table::{FileTable, TomlText, wrong_type};
use crate::value::UserLookup;

/// Greatest size of a policy file, in bytes: 10 MB. A file of 10 MiB is refused.
pub const FILE_SIZE_MAX: usize = 10_000_000;
/// Owner of the objects of a file that does not name one.
pub const OWNER: &str = "local";

const TOP_KEYS: [&str; 6] = [
    "owner", "defaults", "provider", "sublayer", "service", "filter",
];
const DEFAULT_KEYS: [&str; 5] = ["lifetime", "provider", "sublayer", "layer", "action"];

/// What [`parse`] needs besides the text of the file.
pub struct ParseOptions<'a> {
    /// Name of the file in errors.
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
/// Errors: everything that is wrong with the file, up to [`ERRORS_MAX`] errors. After a syntax
/// error, the rest of the file is not examined.
///
/// ```
/// use sidetrack_policy_file::{Listing, ParseOptions, parse};
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
/// let errors = parse(b"[[service]]\nnaem = \"inspect\"\n", &options).unwrap_err();
/// assert_eq!(errors.shown[0].position.as_ref().unwrap().line, 2);
/// ```
pub fn parse(text: &[u8], options: &ParseOptions<'_>) -> Result<Policy, FileErrors> {
    if text.len() > FILE_SIZE_MAX {
        let message = format!("{} has {} bytes", options.file, text.len());
        let advice = "a policy file can have at most 10,000,000";
        return Err(FileErrors::of_file(message, advice));
    }
    let fail = |errors| FileErrors::new(options.file, text, errors);
    let document = parse_tables(text).map_err(|error| fail(vec![error]))?;
    let mut reader = Reader {
        owner: String::new(),
        names: Names::default(),
        users: options.users,
        defaults: None,
        objects: Listing::default(),
        keys: HashSet::new(),
        errors: Vec::new(),
    };
    reader.read(&document, options);
    match reader.errors.is_empty() {
        true => Ok(Policy {
            owner: reader.owner,
            objects: reader.objects,
        }),
        false => Err(fail(reader.errors)),
    }
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
    errors: Vec<SpannedError>,
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
        if let Err(error) = self.read_top(&top, options.owner) {
            return self.errors.push(error);
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
    fn read_top(&mut self, top: &FileTable<'d>, owner: Option<&str>) -> Result<(), SpannedError> {
        top.check_keys(&TOP_KEYS)?;
        let written = top.text("owner")?;
        if let Some(TomlText { text, span }) = &written
            && check_owner(text).is_err()
        {
            let message = format!(
                "the name of an owner must have 1 to {NAME_SIZE_MAX} bytes and no control characters"
            );
            return Err(SpannedError::new(span.clone(), message).code(Code::OutOfBounds));
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
        read: impl Fn(&mut Self, &FileTable<'d>) -> Result<(), SpannedError>,
    ) {
        let Some(value) = document.get(kind) else {
            return;
        };
        let DeValue::Array(list) = value.get_ref() else {
            let error = wrong_type(kind, "a list", value).advice(format!("write [[{kind}]]"));
            return self.errors.push(error);
        };
        for each in list.iter() {
            if self.errors.len() >= ERRORS_MAX {
                return;
            }
            let entry = FileTable::of(what, each).map(|entry| FileTable {
                defaults: self.defaults,
                ..entry
            });
            match entry {
                Ok(entry) => {
                    if let Err(error) = read(self, &entry) {
                        self.errors.push(error);
                        self.register_invalid(kind, &entry);
                    }
                }
                Err(error) => self.errors.push(error),
            }
        }
    }

    /// Makes the name of an invalid object known, so that references to it are not errors too.
    fn register_invalid(&mut self, kind: &str, entry: &FileTable<'d>) {
        if let Some(kind) = NameKind::of(kind)
            && let Ok(Some(name)) = entry.text("name")
        {
            let key = self.key(kind.name(), name.text);
            self.names.add_invalid(kind, name.text, key);
        }
    }

    /// Makes an object known, so that others can refer to it.
    fn register(
        &mut self,
        kind: NameKind,
        entry: &FileTable<'d>,
        identity: &Identity,
        lifetime: Lifetime,
    ) -> Result<(), SpannedError> {
        self.check_unique(kind.name(), entry, identity)?;
        self.names.add(kind, &identity.name, identity.key, lifetime);
        Ok(())
    }

    fn check_unique(
        &mut self,
        kind: &'static str,
        entry: &FileTable<'d>,
        identity: &Identity,
    ) -> Result<(), SpannedError> {
        if self.keys.insert((kind, identity.key)) {
            return Ok(());
        }
        let message = format!(
            "a {kind} above has the same name or the same key as {:?}",
            identity.name
        );
        Err(SpannedError::new(entry.span_of("name"), message)
            .code(Code::AlreadyExists)
            .advice("choose another name or key"))
    }
}
