//! What a filter's field may be compared with, as it is written.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::de::DeValue;

use super::entry::{Value as Written, no_such, number, wrong_type};
use super::fault::Mark;
use crate::field::{FieldType, address_type, flags};
use crate::{Code, Condition, Field, MatchType, Value};

/// The values of [`Field::Protocol`] that have names.
pub(crate) const PROTOCOLS: [(&str, u64); 2] = [("tcp", 6), ("udp", 17)];
/// The values of [`Field::Direction`].
pub(crate) const DIRECTIONS: [(&str, u64); 2] = [("outbound", 0), ("inbound", 1)];

/// Finds the number of a user.
pub type Users<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// A condition, and where its value stands.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) condition: Condition,
    pub(super) span: Range<usize>,
}

/// The alternatives that a field's value stands for.
pub(super) fn conditions(
    field: Field,
    written: &Written<'_>,
    users: Users<'_>,
) -> Result<Vec<Placed>, Mark> {
    let mut found = Vec::new();
    match written.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            let message = format!("an empty list of {field} matches nothing");
            return Err(Mark::new(written.span(), message)
                .code(Code::ZeroLengthArray)
                .advice("leave the field out to match everything"));
        }
        DeValue::Array(list) => {
            for each in list.iter() {
                alternative(field, each, users, &mut found)?;
            }
        }
        _ => alternative(field, written, users, &mut found)?,
    }
    Ok(found)
}

fn alternative(
    field: Field,
    written: &Written<'_>,
    users: Users<'_>,
    found: &mut Vec<Placed>,
) -> Result<(), Mark> {
    let DeValue::Table(table) = written.get_ref() else {
        let value = value(field, written, users)?;
        let match_type = match (&value, field) {
            (Value::Range(..), _) => MatchType::Range,
            // A bare flag asks for that flag, whatever the others are.
            (_, Field::Flags) => MatchType::FlagsAllSet,
            _ => MatchType::Equal,
        };
        found.push(placed(field, match_type, value, written));
        return Ok(());
    };
    let mut pairs = table.iter();
    let (Some((key, operand)), None) = (pairs.next(), pairs.next()) else {
        let message = format!("a comparison of {field} has one key, such as {{ not_equal = … }}");
        return Err(Mark::new(written.span(), message)
            .code(Code::InvalidParameter)
            .advice("for numbers between two others, use range"));
    };
    let names = MatchType::ALL.map(|each| (each.name(), each));
    let text = key.get_ref().as_ref();
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, match_type)) => compared(field, *match_type, operand, users, found),
        None => Err(no_such("a comparison", text, key.span(), &names)),
    }
}

/// `{ match_type = operand }`.
fn compared(
    field: Field,
    match_type: MatchType,
    operand: &Written<'_>,
    users: Users<'_>,
    found: &mut Vec<Placed>,
) -> Result<(), Mark> {
    use MatchType::{Equal, FlagsAllSet, FlagsAnySet, FlagsNoneSet, Prefix, Range};
    let one = |written| value(field, written, users);
    let DeValue::Array(list) = operand.get_ref() else {
        found.push(placed(field, match_type, one(operand)?, operand));
        return Ok(());
    };
    let name = match_type.name();
    if list.is_empty() {
        let message = format!("an empty list for {name}");
        return Err(Mark::new(operand.span(), message).code(Code::ZeroLengthArray));
    }
    match match_type {
        Equal | Prefix => {
            for each in list.iter() {
                found.push(placed(field, match_type, one(each)?, each));
            }
        }
        FlagsAllSet | FlagsAnySet | FlagsNoneSet => {
            let mut bits = 0;
            for each in list.iter() {
                match one(each)? {
                    Value::Uint(bit) => bits |= bit,
                    _ => return Err(wrong_type(name, "flags", each)),
                }
            }
            found.push(placed(field, match_type, Value::Uint(bits), operand));
        }
        Range if list.len() == 2 => {
            let range = Value::Range(Box::new(one(&list[0])?), Box::new(one(&list[1])?));
            found.push(placed(field, match_type, range, operand));
        }
        Range => {
            let message = "a range is a list of two, the first and the last";
            return Err(Mark::new(operand.span(), message).code(Code::InvalidRange));
        }
        _ => {
            let message = format!("{name} takes one value: alternatives of it would match all");
            return Err(Mark::new(operand.span(), message)
                .code(Code::InvalidParameter)
                .advice("let a filter of higher weight take the exceptions"));
        }
    }
    Ok(())
}

fn placed(field: Field, match_type: MatchType, value: Value, written: &Written<'_>) -> Placed {
    Placed {
        condition: Condition {
            field,
            match_type,
            value,
        },
        span: written.span(),
    }
}

fn value(field: Field, written: &Written<'_>, users: Users<'_>) -> Result<Value, Mark> {
    match (field.kind(), written.get_ref()) {
        (FieldType::Uint(most), DeValue::Integer(_)) => {
            number(field.name(), written, most).map(Value::Uint)
        }
        (FieldType::Uint(most), DeValue::String(text)) => {
            uint(field, text, most, users).map_err(|error| error.at(written))
        }
        (FieldType::Address, DeValue::String(text)) => {
            address(field, text).map_err(|error| error.at(written))
        }
        (FieldType::App | FieldType::Cgroup, DeValue::String(text)) => {
            Ok(Value::Path(text.clone().into_owned()))
        }
        (kind, _) => Err(wrong_type(field.name(), wanted(kind), written)),
    }
}

fn wanted(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Uint(_) => "a number, a name or a range (\"1-9\")",
        FieldType::Address => "an address, a prefix or a range, as a text",
        FieldType::App => "the path of an executable, as a text",
        FieldType::Cgroup => "the path of a cgroup, as a text",
    }
}

/// A text that says nothing, before its place is known.
struct Unread {
    message: String,
    advice: Option<String>,
    code: Code,
}

impl Unread {
    fn new(code: Code, message: String) -> Self {
        Self {
            message,
            advice: None,
            code,
        }
    }

    fn at(self, written: &Written<'_>) -> Mark {
        let mut mark = Mark::new(written.span(), self.message).code(self.code);
        mark.advice = self.advice;
        mark
    }
}

fn uint(field: Field, text: &str, most: u64, users: Users<'_>) -> Result<Value, Unread> {
    let number = |text: &str| match text.parse::<u64>() {
        Ok(number) if number <= most => Ok(Value::Uint(number)),
        _ => Err(Unread::new(
            Code::OutOfBounds,
            format!("{field} goes from 0 to {most}; {text} is beyond"),
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

fn named(field: Field, text: &str, users: Users<'_>) -> Result<Value, Unread> {
    let names: &[(&str, u64)] = match field {
        Field::Flags => &flags::NAMES,
        Field::LocalAddressType | Field::DestinationAddressType => &address_type::NAMES,
        Field::Protocol => &PROTOCOLS,
        Field::Direction => &DIRECTIONS,
        Field::User | Field::CurrentUser => {
            return users(text)
                .map(|user| Value::Uint(user.into()))
                .ok_or_else(|| {
                    Unread::new(
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
    let mut unread = match known.is_empty() {
        true => Unread::new(
            Code::TypeMismatch,
            format!("{text:?} is no number and no range for {field}"),
        ),
        false => Unread::new(
            Code::InvalidEnumerator,
            format!("{field} is a number or one of {}", known.join(", ")),
        ),
    };
    unread.advice = super::fault::nearest(text, known).map(|near| format!("did you mean {near}?"));
    Err(unread)
}

fn address(field: Field, text: &str) -> Result<Value, Unread> {
    let single = |text: &str| match text.trim().parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            let message = format!("{text} is an IPv4 address in IPv6's clothes");
            let mut unread = Unread::new(Code::TypeMismatch, message);
            unread.advice = address.to_ipv4_mapped().map(|v4| format!("write {v4}"));
            Err(unread)
        }
        Ok(address) => Ok(Value::Address(address)),
        Err(_) => Err(Unread::new(
            Code::TypeMismatch,
            format!("{text:?} is no address, no prefix and no range for {field}"),
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
                "{prefix} has bits set behind its {} first",
                prefix.prefix_len()
            );
            let mut unread = Unread::new(Code::InvalidNetMask, message);
            unread.advice = Some(format!("did you mean {}?", prefix.trunc()));
            Err(unread)
        }
        Err(_) => Err(Unread::new(
            Code::InvalidNetMask,
            format!("{text:?} is no prefix, such as 10.0.0.0/8 or 2001:db8::/32"),
        )),
    }
}
