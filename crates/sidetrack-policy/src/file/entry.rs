//! One table of a file: its keys, read by type.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Mark;
use crate::{Code, Field};

/// A value with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// A text with its place.
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    pub(super) span: Range<usize>,
}

/// A table, of an object or of a value.
pub(super) struct Entry<'a> {
    /// What it describes, for people.
    pub(super) what: &'static str,
    pub(super) table: &'a DeTable<'a>,
    /// Asked for what the table leaves out.
    pub(super) defaults: Option<&'a DeTable<'a>>,
    pub(super) span: Range<usize>,
}

impl<'a> Entry<'a> {
    /// The table that a value is.
    pub(super) fn of(what: &'static str, value: &'a Value<'a>) -> Result<Self, Mark> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(wrong_type(what, "a table", value));
        };
        Ok(Self {
            what,
            table,
            defaults: None,
            span: value.span(),
        })
    }

    /// Checks that it has no key but these. WFP's own fields are refused by name.
    pub(super) fn check_keys(&self, known: &[&str]) -> Result<(), Mark> {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            return Err(match name.parse::<Field>() {
                Err(error) if error.message.contains("WFP") => Mark::of(key.span(), error),
                Ok(_) => Mark::new(key.span(), format!("{} has no conditions", self.what)),
                Err(_) => Mark::new(key.span(), format!("{} has no key {name:?}", self.what))
                    .near(name, known.iter().copied()),
            });
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        let default = || self.defaults.and_then(|defaults| defaults.get(key));
        self.table.get(key).or_else(default)
    }

    pub(super) fn require(&self, key: &str, example: &str) -> Result<&'a Value<'a>, Mark> {
        self.get(key).ok_or_else(|| {
            Mark::new(self.span.clone(), format!("{} needs {key:?}", self.what))
                .advice(format!("such as {example}"))
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<Text<'a>>, Mark> {
        self.get(key).map(|value| text(key, value)).transpose()
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Mark> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Ok(*flag),
                _ => Err(wrong_type(key, "true or false", value)),
            },
        }
    }

    /// One of several names.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, Mark> {
        let Some(Text { text, span }) = self.text(key)? else {
            return Ok(None);
        };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => Err(no_such(key, text, span, choices)),
        }
    }
}

/// The text that a value is.
pub(super) fn text<'a>(what: &str, value: &'a Value<'a>) -> Result<Text<'a>, Mark> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Text {
            text,
            span: value.span(),
        }),
        _ => Err(wrong_type(what, "a text", value)),
    }
}

/// The number that a value is, from 0 to a greatest one.
pub(super) fn number(what: &str, value: &Value<'_>, most: u64) -> Result<u64, Mark> {
    let DeValue::Integer(integer) = value.get_ref() else {
        return Err(wrong_type(what, "a number", value));
    };
    let number = u64::from_str_radix(integer.as_str(), integer.radix());
    match number {
        Ok(number) if number <= most => Ok(number),
        _ => {
            let message = format!("{what} goes from 0 to {most}; {integer} is beyond");
            Err(Mark::new(value.span(), message).code(Code::OutOfBounds))
        }
    }
}

pub(super) fn wrong_type(what: &str, wanted: &str, value: &Value<'_>) -> Mark {
    let found = match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let message = format!("{what} needs {wanted}; this is {found}");
    Mark::new(value.span(), message).code(Code::TypeMismatch)
}

/// A name that is none of the choices.
pub(super) fn no_such<T>(
    what: &str,
    text: &str,
    span: Range<usize>,
    choices: &[(&'static str, T)],
) -> Mark {
    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    let message = format!("{what} is one of {}; {text:?} is not", names.join(", "));
    Mark::new(span, message)
        .code(Code::InvalidEnumerator)
        .near(text, names)
}
