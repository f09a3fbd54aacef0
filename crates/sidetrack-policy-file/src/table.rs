//! The tables of a policy file, whose keys are read by type.

use std::ops::Range;

use sidetrack_policy::{Code, Field};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::SpannedError;

/// A value with its span of bytes in the file.
pub(crate) type TomlValue<'a> = Spanned<DeValue<'a>>;

/// A string with its span of bytes in the file.
pub(crate) struct TomlText<'a> {
    pub(crate) text: &'a str,
    pub(crate) span: Range<usize>,
}

/// A table of the file, which describes an object or a value.
pub(crate) struct FileTable<'a> {
    /// What the table describes, for messages, for example `a filter`.
    pub(crate) what: &'static str,
    pub(crate) table: &'a DeTable<'a>,
    /// Table of the values for keys that this table leaves out.
    pub(crate) defaults: Option<&'a DeTable<'a>>,
    pub(crate) span: Range<usize>,
}

impl<'a> FileTable<'a> {
    /// A value as a table.
    pub(crate) fn of(what: &'static str, value: &'a TomlValue<'a>) -> Result<Self, SpannedError> {
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

    /// Checks that the table has no unknown keys. For fields that WFP has and Linux does not, the
    /// message gives the reason.
    pub(crate) fn check_keys(&self, known: &[&str]) -> Result<(), SpannedError> {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            return Err(match name.parse::<Field>() {
                Err(error) if Field::unsupported_reason(name).is_some() => {
                    SpannedError::of(key.span(), error)
                }
                Ok(_) => SpannedError::new(key.span(), format!("{} has no conditions", self.what))
                    .advice("only filters have conditions"),
                Err(_) => {
                    SpannedError::new(key.span(), format!("{} has no key {name:?}", self.what))
                        .near(name, known.iter().copied())
                }
            });
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a TomlValue<'a>> {
        let default = || self.defaults.and_then(|defaults| defaults.get(key));
        self.table.get(key).or_else(default)
    }

    /// The span of a key's value; of the whole table if it has no such key.
    pub(crate) fn span_of(&self, key: &str) -> Range<usize> {
        self.get(key)
            .map_or(self.span.clone(), |value| value.span())
    }

    /// The span of a key's value; if that is a table, as in `{ class = 8 }`, of the first value in it.
    pub(crate) fn inner_span_of(&self, key: &str) -> Range<usize> {
        let inner = match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => table.values().next().map(Spanned::span),
            _ => None,
        };
        inner.unwrap_or_else(|| self.span_of(key))
    }

    pub(crate) fn require(
        &self,
        key: &str,
        example: &str,
    ) -> Result<&'a TomlValue<'a>, SpannedError> {
        self.get(key).ok_or_else(|| {
            SpannedError::new(
                self.span.clone(),
                format!("{} needs the key {key:?}", self.what),
            )
            .advice(format!("for example {example}"))
        })
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<TomlText<'a>>, SpannedError> {
        self.get(key).map(|value| text(key, value)).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, SpannedError> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Ok(*flag),
                _ => Err(wrong_type(key, "true or false", value)),
            },
        }
    }

    /// The value of the key, if its string is one of several names.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, SpannedError> {
        let Some(TomlText { text, span }) = self.text(key)? else {
            return Ok(None);
        };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => Err(not_a_choice(key, text, span, choices)),
        }
    }
}

/// A value as a string. `what` names it in the message.
pub(crate) fn text<'a>(what: &str, value: &'a TomlValue<'a>) -> Result<TomlText<'a>, SpannedError> {
    match value.get_ref() {
        DeValue::String(text) => Ok(TomlText {
            text,
            span: value.span(),
        }),
        _ => Err(wrong_type(what, "a string", value)),
    }
}

/// A value as a number from 0 to `most`. `what` names it in the message.
pub(crate) fn number(what: &str, value: &TomlValue<'_>, most: u64) -> Result<u64, SpannedError> {
    let DeValue::Integer(integer) = value.get_ref() else {
        return Err(wrong_type(what, "a number", value));
    };
    let number = u64::from_str_radix(integer.as_str(), integer.radix());
    match number {
        Ok(number) if number <= most => Ok(number),
        _ => {
            let message = format!("{what} must be from 0 to {most}; this is {integer}");
            Err(SpannedError::new(value.span(), message).code(Code::OutOfBounds))
        }
    }
}

/// The error that a value has another type than the wanted one.
pub(crate) fn wrong_type(what: &str, wanted: &str, value: &TomlValue<'_>) -> SpannedError {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let message = format!("{what} needs {wanted}; this is {found}");
    SpannedError::new(value.span(), message).code(Code::TypeMismatch)
}

/// The error that a name is none of the choices.
pub(crate) fn not_a_choice<T>(
    what: &str,
    text: &str,
    span: Range<usize>,
    choices: &[(&'static str, T)],
) -> SpannedError {
    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
    let message = format!(
        "{what} must be one of {}; this is {text:?}",
        names.join(", ")
    );
    SpannedError::new(span, message)
        .code(Code::InvalidEnumerator)
        .near(text, names)
}
