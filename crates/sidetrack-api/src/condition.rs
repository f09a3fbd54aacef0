//! Conversion of conditions from and to the API's messages.

use std::net::IpAddr;

use ipnet::IpNet;
use sidetrack_policy::{Code, Condition, Error, Field, MatchType, Value};

use crate::object::{address, address_bytes};
use crate::v1;

impl TryFrom<v1::Condition> for Condition {
    type Error = Error;

    /// Errors: FWP_E_NULL_POINTER, …CONDITION_NOT_FOUND, …INVALID_ENUMERATOR, …ZERO_LENGTH_ARRAY,
    /// …INVALID_PARAMETER, …INVALID_NET_MASK, …TYPE_MISMATCH.
    fn try_from(condition: v1::Condition) -> Result<Self, Error> {
        let value = condition.value.and_then(|value| value.kind);
        Ok(Self {
            field: field(condition.field)?,
            match_type: match_type(condition.match_type)?,
            value: Value::try_from(value.ok_or_else(no_value)?)?,
        })
    }
}

impl From<&Condition> for v1::Condition {
    fn from(condition: &Condition) -> Self {
        Self {
            field: wire_field(condition.field).into(),
            match_type: wire_match_type(condition.match_type).into(),
            value: Some((&condition.value).into()),
        }
    }
}

impl TryFrom<v1::value::Kind> for Value {
    type Error = Error;

    fn try_from(kind: v1::value::Kind) -> Result<Self, Error> {
        use v1::value::Kind;
        match kind {
            Kind::Range(range) => Ok(Self::Range(range_end(range.low)?, range_end(range.high)?)),
            other => plain_value(other),
        }
    }
}

impl From<&Value> for v1::Value {
    fn from(value: &Value) -> Self {
        use v1::value::Kind;
        let kind = match value {
            Value::Uint(number) => Kind::Uint(*number),
            Value::Address(address) => Kind::Address(address_bytes(*address)),
            Value::Prefix(prefix) => Kind::Prefix(v1::Prefix {
                address: address_bytes(prefix.addr()),
                length: prefix.prefix_len().into(),
            }),
            Value::Path(path) => Kind::Path(path.clone()),
            Value::Range(low, high) => Kind::Range(Box::new(v1::Range {
                low: Some(Box::new((&**low).into())),
                high: Some(Box::new((&**high).into())),
            })),
        };
        Self { kind: Some(kind) }
    }
}

/// Reads an end of a range. An end that is a range itself is refused before its own ends are read.
fn range_end(value: Option<Box<v1::Value>>) -> Result<Box<Value>, Error> {
    let kind = value.and_then(|value| value.kind).ok_or_else(no_value)?;
    plain_value(kind).map(Box::new)
}

/// Reads a value that is not a range.
fn plain_value(kind: v1::value::Kind) -> Result<Value, Error> {
    use v1::value::Kind;
    match kind {
        Kind::Uint(number) => Ok(Value::Uint(number)),
        Kind::Address(bytes) => Ok(Value::Address(address(&bytes)?)),
        Kind::Prefix(wire) => read_prefix(&wire).map(Value::Prefix),
        Kind::Path(path) if path.is_empty() => Err(Error::new(
            Code::ZeroLengthArray,
            "a path must not be empty",
        )),
        Kind::Path(path) => Ok(Value::Path(path)),
        Kind::Range(_) => Err(Error::new(
            Code::TypeMismatch,
            "an end of a range cannot be a range",
        )),
    }
}

fn read_prefix(wire: &v1::Prefix) -> Result<IpNet, Error> {
    let address: IpAddr = address(&wire.address)?;
    let length = u8::try_from(wire.length).ok();
    length
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| {
            Error::new(
                Code::InvalidNetMask,
                format!(
                    "a prefix of {} bits is too long for the address {address}",
                    wire.length
                ),
            )
        })
}

fn field(number: i32) -> Result<Field, Error> {
    match v1::Field::try_from(number) {
        Ok(v1::Field::Unspecified) => Err(Error::new(
            Code::NullPointer,
            "a condition needs a field; Field in sidetrack.proto lists the fields",
        )),
        // `Field::from_str` also knows WFP's fields that have no meaning on Linux, and gives the reason.
        Ok(wire) => wire.as_str_name()["FIELD_".len()..].to_lowercase().parse(),
        Err(_) => Err(Error::new(
            Code::ConditionNotFound,
            format!("there is no field with the number {number}"),
        )),
    }
}

fn wire_field(field: Field) -> v1::Field {
    match field {
        Field::App => v1::Field::App,
        Field::CurrentApp => v1::Field::CurrentApp,
        Field::User => v1::Field::User,
        Field::CurrentUser => v1::Field::CurrentUser,
        Field::Cgroup => v1::Field::Cgroup,
        Field::CurrentCgroup => v1::Field::CurrentCgroup,
        Field::Flags => v1::Field::Flags,
        Field::LocalAddress => v1::Field::LocalAddress,
        Field::LocalAddressType => v1::Field::LocalAddressType,
        Field::LocalPort => v1::Field::LocalPort,
        Field::RemoteAddress => v1::Field::RemoteAddress,
        Field::RemotePort => v1::Field::RemotePort,
        Field::DestinationAddressType => v1::Field::DestinationAddressType,
        Field::Protocol => v1::Field::Protocol,
        Field::Netns => v1::Field::Netns,
        Field::Direction => v1::Field::Direction,
    }
}

/// Reads a match type. WFP's numbers are the indices in [`MatchType::ALL`].
fn match_type(number: i32) -> Result<MatchType, Error> {
    usize::try_from(number)
        .ok()
        .and_then(|index| MatchType::ALL.get(index).copied())
        .ok_or_else(|| {
            Error::new(
                Code::InvalidEnumerator,
                format!("there is no match type with the number {number}; use 0 to 12"),
            )
        })
}

fn wire_match_type(match_type: MatchType) -> v1::MatchType {
    match match_type {
        MatchType::Equal => v1::MatchType::Equal,
        MatchType::Greater => v1::MatchType::Greater,
        MatchType::Less => v1::MatchType::Less,
        MatchType::GreaterOrEqual => v1::MatchType::GreaterOrEqual,
        MatchType::LessOrEqual => v1::MatchType::LessOrEqual,
        MatchType::Range => v1::MatchType::Range,
        MatchType::FlagsAllSet => v1::MatchType::FlagsAllSet,
        MatchType::FlagsAnySet => v1::MatchType::FlagsAnySet,
        MatchType::FlagsNoneSet => v1::MatchType::FlagsNoneSet,
        MatchType::EqualCaseInsensitive => v1::MatchType::EqualCaseInsensitive,
        MatchType::NotEqual => v1::MatchType::NotEqual,
        MatchType::Prefix => v1::MatchType::Prefix,
        MatchType::NotPrefix => v1::MatchType::NotPrefix,
    }
}

fn no_value() -> Error {
    Error::new(
        Code::NullPointer,
        "a condition needs a value, and a range needs both ends",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: i32, match_type: i32, kind: v1::value::Kind) -> Result<Condition, Error> {
        Condition::try_from(v1::Condition {
            field,
            match_type,
            value: Some(v1::Value { kind: Some(kind) }),
        })
    }

    #[test]
    fn conditions_are_read_from_their_messages() {
        for field in Field::ALL {
            for match_type in MatchType::ALL {
                let condition = Condition {
                    field,
                    match_type,
                    value: Value::Range(Box::new(Value::Uint(1)), Box::new(Value::Uint(2))),
                };
                assert_eq!(
                    Condition::try_from(v1::Condition::from(&condition)),
                    Ok(condition)
                );
            }
        }
    }

    #[test]
    fn every_field_of_the_api_is_known_to_policy() {
        for number in 0..200 {
            let Ok(wire) = v1::Field::try_from(number) else {
                continue;
            };
            let read = field(number);
            match number {
                0 => assert_eq!(read.unwrap_err().code, Code::NullPointer),
                1..=100 => assert_eq!(wire_field(read.unwrap()), wire),
                _ => assert!(read.unwrap_err().message.contains("no meaning on Linux")),
            }
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        use v1::value::Kind;
        let prefix = |address: &[u8], length| {
            Kind::Prefix(v1::Prefix {
                address: address.to_vec(),
                length,
            })
        };
        let wrap = |kind| Some(Box::new(v1::Value { kind: Some(kind) }));
        let range = |low, high| Kind::Range(Box::new(v1::Range { low, high }));
        for (kind, code) in [
            (Kind::Address(Vec::new()), Code::ZeroLengthArray),
            (Kind::Address(vec![1; 5]), Code::InvalidParameter),
            (prefix(&[10, 0, 0, 0], 33), Code::InvalidNetMask),
            (prefix(&[10, 0, 0, 0], 256 + 8), Code::InvalidNetMask),
            (prefix(&[0; 16], 129), Code::InvalidNetMask),
            (Kind::Path(String::new()), Code::ZeroLengthArray),
            (range(None, wrap(Kind::Uint(1))), Code::NullPointer),
            (
                range(wrap(range(None, None)), wrap(Kind::Uint(1))),
                Code::TypeMismatch,
            ),
        ] {
            let error = read(11, 0, kind.clone()).unwrap_err();
            assert_eq!(error.code, code, "{kind:?}");
        }
        let port = || Kind::Uint(443);
        assert_eq!(
            read(12, 13, port()).unwrap_err().code,
            Code::InvalidEnumerator
        );
        assert_eq!(
            read(12, -1, port()).unwrap_err().code,
            Code::InvalidEnumerator
        );
        assert_eq!(
            read(99, 0, port()).unwrap_err().code,
            Code::ConditionNotFound
        );
        let bare = v1::Condition {
            field: 12,
            ..Default::default()
        };
        assert_eq!(
            Condition::try_from(bare).unwrap_err().code,
            Code::NullPointer
        );
    }
}
