//! The difference between two lists of objects, property by property.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use sidetrack_abi::text::Printable;
use sidetrack_policy::Uuid;

use crate::listing::Listing;
use crate::property::{AnyObject, NameOf};

/// The difference between two lists of objects. It displays as text for people and serialises for
/// programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Objects that are only in the list after the change.
    pub added: Vec<Changed>,
    /// Objects that are only in the list before the change.
    pub removed: Vec<Changed>,
    /// Objects that are in both lists with different properties.
    pub changed: Vec<Changed>,
}

/// An object that differs between the lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Kind of the object: `provider`, `sublayer`, `service` or `filter`.
    pub kind: &'static str,
    /// Key of the object.
    pub key: Uuid,
    /// Name of the object after the change; if the object was removed, its name before.
    pub name: String,
    /// Layer of a filter; none for other objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Properties that differ; all properties if the object was added or removed.
    pub properties: Vec<PropertyChange>,
}

/// A property that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PropertyChange {
    /// Name of the property in policy files.
    pub property: &'static str,
    /// Value before the change, as a text; none if it was not set.
    pub before: Option<String>,
    /// Value after the change, as a text; none if it is not set.
    pub after: Option<String>,
}

impl Diff {
    /// Compares two lists. Objects with the same kind and key are the same object.
    pub fn between(before: &Listing, after: &Listing) -> Self {
        let names = names(before, after);
        let name_of = |key: Uuid| names.get(&key).cloned();
        let mut diff = Self::default();
        let (mut old, mut new) = (by_key(before), by_key(after));
        for (key, object) in &mut new {
            diff.compare(old.remove(key), Some(*object), &name_of);
        }
        for (_, object) in old {
            diff.compare(Some(object), None, &name_of);
        }
        diff
    }

    /// Compares one object before and after a change, and adds the difference, if there is any.
    pub fn compare(
        &mut self,
        before: Option<AnyObject<'_>>,
        after: Option<AnyObject<'_>>,
        name_of: NameOf<'_>,
    ) {
        let Some(object) = after.or(before) else {
            return;
        };
        let properties = changes(before, after, name_of);
        let changed = Changed {
            kind: object.kind(),
            key: object.identity().key,
            name: object.identity().name.clone(),
            layer: match object {
                AnyObject::Filter(filter) => Some(filter.layer.to_string()),
                _ => None,
            },
            properties,
        };
        match (before, after) {
            (None, _) => self.added.push(changed),
            (_, None) => self.removed.push(changed),
            _ if changed.properties.is_empty() => {}
            _ => self.changed.push(changed),
        }
    }

    /// True if there is no difference.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

fn changes(
    before: Option<AnyObject<'_>>,
    after: Option<AnyObject<'_>>,
    name_of: NameOf<'_>,
) -> Vec<PropertyChange> {
    let properties = |object: Option<AnyObject<'_>>| {
        object.map_or(Vec::new(), |object| object.properties(name_of))
    };
    let (before, mut after) = (properties(before), properties(after));
    let mut all = Vec::new();
    for (property, old) in before {
        let at = after.iter().position(|(name, _)| *name == property);
        let new = at.map(|at| after.remove(at).1);
        if new.as_ref() != Some(&old) {
            all.push(PropertyChange {
                property,
                before: Some(old),
                after: new,
            });
        }
    }
    all.extend(after.into_iter().map(|(property, new)| PropertyChange {
        property,
        before: None,
        after: Some(new),
    }));
    all
}

fn by_key(objects: &Listing) -> BTreeMap<(usize, Uuid), AnyObject<'_>> {
    let all = objects.all();
    all.map(|object| ((order(object), object.identity().key), object))
        .collect()
}

/// The order of the kinds, as in policy files.
fn order(object: AnyObject<'_>) -> usize {
    match object {
        AnyObject::Provider(_) => 0,
        AnyObject::Sublayer(_) => 1,
        AnyObject::Service(_) => 2,
        AnyObject::Filter(_) => 3,
    }
}

fn names(before: &Listing, after: &Listing) -> BTreeMap<Uuid, String> {
    let referred = before.all().chain(after.all());
    referred
        .filter(|object| !matches!(object, AnyObject::Filter(_)))
        .map(|object| (object.identity().key, object.identity().name.clone()))
        .collect()
}

impl fmt::Display for Diff {
    /// Writes one line for each object, which begins with `+` (added), `-` (removed) or `~`
    /// (changed), and one for each changed property.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, all) in [('+', &self.added), ('-', &self.removed)] {
            for one in all {
                writeln!(f, "{sign} {one}")?;
            }
        }
        for one in &self.changed {
            writeln!(f, "~ {one}")?;
            for change in &one.properties {
                writeln!(f, "    {change}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.name)?;
        match &self.layer {
            Some(layer) => write!(f, " at {layer}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PropertyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "not set".to_owned());
        let (before, after) = (shown(&self.before), shown(&self.after));
        let (before, after) = (Printable(before), Printable(after));
        write!(f, "{}: {before} -> {after}", self.property)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParseOptions, parse};

    fn objects(text: &str) -> Listing {
        let options = ParseOptions {
            file: "policy.toml",
            owner: None,
            others: &Listing::default(),
            users: &|_| None,
        };
        let policy = parse(text.as_bytes(), &options);
        policy.unwrap_or_else(|errors| panic!("{errors}")).objects
    }

    const BEFORE: &str = r#"
defaults = { layer = "connect-redirect-v4", sublayer = "s" }
sublayer = [{ name = "s", weight = 5 }, { name = "old" }]
service = [{ name = "inspect", context = { text = "a" } }, { name = "other" }]
filter = [
    { name = "same", action = "permit" },
    { name = "gone", action = "block" },
    { name = "web", action = { redirect = "inspect" }, remote_port = [80, 443], protocol = "tcp" },
]
"#;

    const AFTER: &str = r#"
defaults = { layer = "connect-redirect-v4", sublayer = "s" }
sublayer = [{ name = "s", weight = 6, description = "mine" }]
service = [{ name = "inspect", context = "auto", connect = "pended" }, { name = "other" }]
filter = [
    { name = "same", action = "permit" },
    { name = "web", action = { redirect = "other" }, remote_port = [80, { greater = 1000 }],
      flags = { flags_none_set = ["loopback", 2] }, weight = { class = 3 }, on_absent = "permit" },
    { name = "new", action = "block", layer = "auth-connect-v6" },
]
"#;

    #[test]
    fn each_object_is_listed_once_with_its_differences() {
        let diff = Diff::between(&objects(BEFORE), &objects(AFTER));
        insta::assert_snapshot!(diff);
        let json = serde_json::to_string_pretty(&diff).unwrap();
        insta::assert_snapshot!("json", json);
    }

    #[test]
    fn each_property_is_one_line_whatever_it_contains() {
        let change = PropertyChange {
            property: "description",
            before: None,
            after: Some("a\n+ filter \u{202e}".into()),
        };
        assert_eq!(
            change.to_string(),
            r"description: not set -> a\n+ filter \u{202e}"
        );
    }

    #[test]
    fn a_list_does_not_differ_from_itself() {
        assert!(Diff::between(&objects(AFTER), &objects(AFTER)).is_empty());
    }
}
