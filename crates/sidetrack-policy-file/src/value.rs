//! The fields of a filter: values and comparisons, which are read as conditions.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use sidetrack_policy::field::{FieldType, address_type, flags};
use sidetrack_policy::{Code, Condition, Field, MatchType, Value};
use toml::de::DeValue;

use crate::error::{SpannedError, nearest};
use crate::table::{TomlValue, not_a_choice, number, wrong_type};

/// Values of [`Field::Protocol`] with their names in policy files.
pub(crate) const PROTOCOLS: [(&str, u64); 2] = [("tcp", 6), ("udp", 17)];
/// Values of [`Field::Direction`] with their names in policy files.
pub(crate) const DIRECTIONS: [(&str, u64); 2] = [("outbound", 0), ("inbound", 1)];

/// Finds the id of a user by name; none if there is no such user.
pub type UserLookup<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// A condition with the span of its value in the file.
#[derive(Clone)]
pub(crate) struct SpannedCondition {
    pub(crate) condition: Condition,
    pub(crate) span: Range<usize>,
}

/// Reads a field's value: one alternative, or a list of them.
pub(crate) fn conditions(
    field: Field,
    toml: &TomlValue<'_>,
    users: UserLookup<'_>,
) -> Result<Vec<SpannedCondition>, SpannedError> {
    let mut found = Vec::new();
    match toml.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            let message = format!("an empty list for {field} matches nothing");
            return Err(SpannedError::new(toml.span(), message)
                .code(Code::ZeroLengthArray)
                .advice("leave the field out to match everything"));
        }
        DeValue::Array(list) => {
            for each in list.iter() {
                alternative(field, each, users, &mut found)?;
            }
        }
        _ => alternative(field, toml, users, &mut found)?,
    }
    Ok(found)
}

/// Reads one alternative: a value, or a table with a comparison.
fn alternative(
    field: Field,
    toml: &TomlValue<'_>,
    users: UserLookup<'_>,
    found: &mut Vec<SpannedCondition>,
) -> Result<(), SpannedError> {
    let DeValue::Table(table) = toml.get_ref() else {
        let value = read_value(field, toml, users)?;
        let match_type = match (&value, field) {
            (Value::Range(..), _) => MatchType::Range,
            // A flag without a match type tests that flag only, whatever the others are.
            (_, Field::Flags) => MatchType::FlagsAllSet,
            _ => MatchType::Equal,
        };
        found.push(spanned(field, match_type, value, toml));
        return Ok(());
    };
    let mut pairs = table.iter();
    let (Some((key, operand)), None) = (pairs.next(), pairs.next()) else {
        let message =
            format!("a comparison of {field} must have exactly one key, for example not_equal");
        return Err(SpannedError::new(toml.span(), message)
            .code(Code::InvalidParameter)
            .advice("for numbers between two others, use range"));
    };
    let names = MatchType::ALL.map(|each| (each.name(), each));
    let text = key.get_ref().as_ref();
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, match_type)) => comparison(field, *match_type, operand, users, found),
        None => Err(not_a_choice("a comparison", text, key.span(), &names)),
    }
}

/// Reads a comparison `{ match_type = operand }`.
fn comparison(
    field: Field,
    match_type: MatchType,
    operand: &TomlValue<'_>,
    users: UserLookup<'_>,
    found: &mut Vec<SpannedCondition>,
) -> Result<(), SpannedError> {
    use MatchType::{Equal, FlagsAllSet, FlagsAnySet, FlagsNoneSet, Prefix, Range};
    let one = |toml| read_value(field, toml, users);
    let DeValue::Array(list) = operand.get_ref() else {
        found.push(spanned(field, match_type, one(operand)?, operand));
        return Ok(());
    };
    let name = match_type.name();
    if list.is_empty() {
        let message = format!("the list for {name} is empty");
        return Err(SpannedError::new(operand.span(), message)
            .code(Code::ZeroLengthArray)
            .advice("write at least one value"));
    }
    match match_type {
        Equal | Prefix => {
            for each in list.iter() {
                found.push(spanned(field, match_type, one(each)?, each));
            }
        }
        FlagsAllSet | FlagsAnySet | FlagsNoneSet => {
            let mut bits = 0;
            for each in list.iter() {
                match one(each)? {
                    Value::Uint(bit) => bits |= bit,
                    _ => return Err(wrong_type(name, "a number or the name of a flag", each)),
                }
            }
            found.push(spanned(field, match_type, Value::Uint(bits), operand));
        }
        Range if list.len() == 2 => {
            let range = Value::Range(Box::new(one(&list[0])?), Box::new(one(&list[1])?));
            found.push(spanned(field, match_type, range, operand));
        }
        Range => {
            let message = "the list for a range must have two values, the first and the last";
            return Err(SpannedError::new(operand.span(), message).code(Code::InvalidRange));
        }
        // Alternatives of not_equal or not_prefix would together match everything.
        _ => {
            let message = format!("{name} takes one value, not a list");
            return Err(SpannedError::new(operand.span(), message)
                .code(Code::InvalidParameter)
                .advice("for exceptions, use a filter of higher weight"));
        }
    }
    Ok(())
}

fn spanned(
    field: Field,
    match_type: MatchType,
    value: Value,
    toml: &TomlValue<'_>,
) -> SpannedCondition {
    SpannedCondition {
        condition: Condition {
            field,
            match_type,
            value,
        },
        span: toml.span(),
    }
}

/// Reads a value that is not a list or a table.
fn read_value(
    field: Field,
    toml: &TomlValue<'_>,
    users: UserLookup<'_>,
) -> Result<Value, SpannedError> {
    match (field.kind(), toml.get_ref()) {
        (FieldType::Uint(most), DeValue::Integer(_)) => {
            number(field.name(), toml, most).map(Value::Uint)
        }
        (FieldType::Uint(most), DeValue::String(text)) => {
            uint(field, text, most, users).map_err(|error| error.at(toml))
        }
        (FieldType::Address, DeValue::String(text)) => {
            address(field, text).map_err(|error| error.at(toml))
        }
        (FieldType::App | FieldType::Cgroup, DeValue::String(text)) => {
            Ok(Value::Path(text.clone().into_owned()))
        }
        (kind, _) => Err(wrong_type(field.name(), wanted(kind), toml)),
    }
}

fn wanted(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Uint(_) => "a number, a name or a range such as \"1-9\"",
        FieldType::Address => "an address, a prefix or a range, as a string",
        FieldType::App => "the path of an executable, as a string",
        FieldType::Cgroup => "the path of a cgroup, as a string",
    }
}

/// An error about a string whose span is not known yet.
struct ValueFinding {
    message: String,
    advice: Option<String>,
    code: Code,
}

impl ValueFinding {
    fn new(code: Code, message: String) -> Self {
        Self {
            message,
            advice: None,
            code,
        }
    }

    fn at(self, value: &TomlValue<'_>) -> SpannedError {
        let mut error = SpannedError::new(value.span(), self.message).code(self.code);
        error.advice = self.advice;
        error
    }
}

fn uint(field: Field, text: &str, most: u64, users: UserLookup<'_>) -> Result<Value, ValueFinding> {
    let number = |text: &str| match text.parse::<u64>() {
        Ok(number) if number <= most => Ok(Value::Uint(number)),
        _ => Err(ValueFinding::new(
            Code::OutOfBounds,
            format!("{field} must be from 0 to {most}; this is {text}"),
        )),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('-') {
        Some((low, high)) if is_number(low.trim()) && is_number(high.trim()) => {
            let (low, high) = (number(low.trim())?, number(high.trim())?);
            Ok(Value::Range(Box::new(low), Box::new(high)))
        }
        _ if is_number(text) => number(text),
        _ => named(field, text, users),
    }
}

fn named(field: Field, text: &str, users: UserLookup<'_>) -> Result<Value, ValueFinding> {
    let names: &[(&str, u64)] = match field {
        Field::Flags => &flags::NAMES,
        Field::LocalAddressType | Field::DestinationAddressType => &address_type::NAMES,
        Field::Protocol => &PROTOCOLS,
        Field::Direction => &DIRECTIONS,
        Field::User | Field::CurrentUser => {
            return users(text)
                .map(|user| Value::Uint(user.into()))
                .ok_or_else(|| {
                    ValueFinding::new(
                        Code::InvalidParameter,
                        format!("there is no user {text:?} on this host"),
                    )
                });
        }
        _ => &[],
    };
    if let Some((_, number)) = names.iter().find(|(name, _)| *name == text) {
        return Ok(Value::Uint(*number));
    }
    let known: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    let mut error = match known.is_empty() {
        true => ValueFinding::new(
            Code::TypeMismatch,
            format!("{field} must be a number or a range such as \"1-9\"; this is {text:?}"),
        ),
        false => ValueFinding::new(
            Code::InvalidEnumerator,
            format!(
                "{field} must be a number or one of {}; this is {text:?}",
                known.join(", ")
            ),
        ),
    };
    error.advice = nearest(text, known).map(|near| format!("did you mean {near}?"));
    Err(error)
}

fn address(field: Field, text: &str) -> Result<Value, ValueFinding> {
    let single = |text: &str| match text.trim().parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            let message = format!("{text} is an IPv4 address in IPv6 form");
            let mut error = ValueFinding::new(Code::TypeMismatch, message);
            error.advice = address.to_ipv4_mapped().map(|v4| format!("write {v4}"));
            Err(error)
        }
        Ok(address) => Ok(Value::Address(address)),
        Err(_) => Err(ValueFinding::new(
            Code::TypeMismatch,
            format!("{field} must be an address, a prefix or a range; this is {text:?}"),
        )),
    };
    if let Some((low, high)) = text.split_once('-') {
        return Ok(Value::Range(
            Box::new(single(low)?),
            Box::new(single(high)?),
        ));
    }
    if !text.contains('/') {
        return single(text);
    }
    match text.parse::<IpNet>() {
        Ok(prefix) if prefix == prefix.trunc() => Ok(Value::Prefix(prefix)),
        Ok(prefix) => {
            let message = format!(
                "{prefix} has bits set after its first {}",
                prefix.prefix_len()
            );
            let mut error = ValueFinding::new(Code::InvalidNetMask, message);
            error.advice = Some(format!("did you mean {}?", prefix.trunc()));
            Err(error)
        }
        Err(_) => Err(ValueFinding::new(
            Code::InvalidNetMask,
            format!("{text:?} is not an address prefix such as 10.0.0.0/8 or 2001:db8::/32"),
        )),
    }
}
