//! Conditions: a field, a match type and a value (docs/wfp.md, 4.4 and 4.5).
//!
//! A filter matches if, for every field that its conditions test, at least one of the conditions on
//! that field holds.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::field::FieldType;
use crate::field_values::address_key;
use crate::{Code, Error, Family, Field, Layer};

/// Greatest length of a path in a value, in bytes.
pub const PATH_SIZE_MAX: usize = 4096;

/// A test of one field of a connection.
///
/// ```
/// use sidetrack_policy::{Condition, Field, LayerKind, Value};
///
/// let https = Condition::equal(Field::RemotePort, Value::Uint(443));
/// let [layer, _] = LayerKind::ConnectRedirect.both();
/// https.check(layer)?;
/// assert_eq!(https.to_string(), "remote_port=443");
/// # Ok::<(), sidetrack_policy::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// Field that is tested.
    pub field: Field,
    /// How the field is compared with the value.
    pub match_type: MatchType,
    /// Value with which the field is compared.
    pub value: Value,
}

/// How a field is compared with a value (WFP: FWP_MATCH_TYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchType {
    /// The field equals the value, or is within it if the value is an address prefix. For all types.
    Equal,
    /// The field is greater than the value. For numbers and addresses.
    Greater,
    /// The field is less than the value. For numbers and addresses.
    Less,
    /// The field is greater than the value or equal to it. For numbers and addresses.
    GreaterOrEqual,
    /// The field is less than the value or equal to it. For numbers and addresses.
    LessOrEqual,
    /// The field is within the range, which includes both ends. For numbers and addresses.
    Range,
    /// All bits of the value are set in the field. For numbers.
    FlagsAllSet,
    /// At least one bit of the value is set in the field. For numbers.
    FlagsAnySet,
    /// No bit of the value is set in the field. For numbers.
    FlagsNoneSet,
    /// For strings. No field is a string, so this match type is always refused.
    EqualCaseInsensitive,
    /// The opposite of [`MatchType::Equal`]. For all types.
    NotEqual,
    /// The field is the cgroup of the value or a cgroup below it. For cgroups.
    Prefix,
    /// The opposite of [`MatchType::Prefix`]. For cgroups.
    NotPrefix,
}

/// A value with which a field is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Unsigned integer.
    Uint(u64),
    /// IP address.
    Address(IpAddr),
    /// Address prefix: all addresses in it.
    Prefix(IpNet),
    /// Absolute path of an executable, or path of a cgroup below the root of the hierarchy.
    Path(String),
    /// Range from the first to the second value, which both belong to it.
    Range(Box<Self>, Box<Self>),
}

impl MatchType {
    /// All match types, in WFP's order: the index is WFP's number.
    pub const ALL: [Self; 13] = [
        Self::Equal,
        Self::Greater,
        Self::Less,
        Self::GreaterOrEqual,
        Self::LessOrEqual,
        Self::Range,
        Self::FlagsAllSet,
        Self::FlagsAnySet,
        Self::FlagsNoneSet,
        Self::EqualCaseInsensitive,
        Self::NotEqual,
        Self::Prefix,
        Self::NotPrefix,
    ];

    /// Name in policy files, for example `not_equal`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Greater => "greater",
            Self::Less => "less",
            Self::GreaterOrEqual => "greater_or_equal",
            Self::LessOrEqual => "less_or_equal",
            Self::Range => "range",
            Self::FlagsAllSet => "flags_all_set",
            Self::FlagsAnySet => "flags_any_set",
            Self::FlagsNoneSet => "flags_none_set",
            Self::EqualCaseInsensitive => "equal_case_insensitive",
            Self::NotEqual => "not_equal",
            Self::Prefix => "prefix",
            Self::NotPrefix => "not_prefix",
        }
    }

    fn applies_to(self, field_type: FieldType) -> bool {
        match self {
            Self::Equal | Self::NotEqual => true,
            Self::Greater | Self::Less | Self::GreaterOrEqual | Self::LessOrEqual | Self::Range => {
                matches!(field_type, FieldType::Uint(_) | FieldType::Address)
            }
            Self::FlagsAllSet | Self::FlagsAnySet | Self::FlagsNoneSet => {
                matches!(field_type, FieldType::Uint(_))
            }
            Self::Prefix | Self::NotPrefix => field_type == FieldType::Cgroup,
            Self::EqualCaseInsensitive => false,
        }
    }
}

impl Condition {
    /// A condition that the field equals the value.
    pub fn equal(field: Field, value: Value) -> Self {
        Self {
            field,
            match_type: MatchType::Equal,
            value,
        }
    }

    /// Checks that the layer has the field, and that field, match type and value fit each other.
    ///
    /// Errors: FWP_E_CONDITION_NOT_FOUND, …MATCH_TYPE_MISMATCH, …TYPE_MISMATCH, …OUT_OF_BOUNDS,
    /// …INVALID_RANGE, …INVALID_NET_MASK.
    pub fn check(&self, layer: Layer) -> Result<(), Error> {
        self.field.require_at(layer.kind)?;
        if !self.match_type.applies_to(self.field.kind()) {
            return Err(Error::new(
                Code::MatchTypeMismatch,
                format!(
                    "{} cannot be compared by the match type {}",
                    self.field,
                    self.match_type.name()
                ),
            ));
        }
        match (&self.value, self.match_type) {
            (Value::Range(low, high), MatchType::Range) => {
                self.check_value(low, layer)?;
                self.check_value(high, layer)?;
                self.check_order(low, high)
            }
            (Value::Range(..), _) | (_, MatchType::Range) => Err(self.mismatch(&self.value)),
            (Value::Prefix(_), MatchType::Equal | MatchType::NotEqual) => {
                self.check_value(&self.value, layer)
            }
            (Value::Prefix(_), _) => Err(self.mismatch(&self.value)),
            (value, _) => self.check_value(value, layer),
        }
    }

    /// True if the condition, on a number or an address, holds for a value of its field. Whether an
    /// address is in a prefix is found by [`crate::reference::holds`] only.
    pub(crate) fn holds_for_number(&self, actual: u128) -> bool {
        let number = |value: &Value| match value {
            Value::Uint(number) => u128::from(*number),
            Value::Address(address) => address_key(*address),
            _ => 0, // `check` refuses other values for these match types
        };
        let value = number(&self.value);
        match self.match_type {
            MatchType::Equal => actual == value,
            MatchType::NotEqual => actual != value,
            MatchType::Greater => actual > value,
            MatchType::Less => actual < value,
            MatchType::GreaterOrEqual => actual >= value,
            MatchType::LessOrEqual => actual <= value,
            MatchType::Range => match &self.value {
                Value::Range(low, high) => (number(low)..=number(high)).contains(&actual),
                _ => false,
            },
            MatchType::FlagsAllSet => actual & value == value,
            MatchType::FlagsAnySet => actual & value != 0,
            MatchType::FlagsNoneSet => actual & value == 0,
            MatchType::Prefix | MatchType::NotPrefix | MatchType::EqualCaseInsensitive => false,
        }
    }

    fn check_value(&self, value: &Value, layer: Layer) -> Result<(), Error> {
        match (self.field.kind(), value) {
            (FieldType::Uint(most), Value::Uint(number)) if *number > most => Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "{} must be from 0 to {most}; this value is {number}",
                    self.field
                ),
            )),
            (FieldType::Uint(_), Value::Uint(_)) => Ok(()),
            (FieldType::Address, Value::Address(address)) => {
                self.check_family(Family::of(*address), layer, value)
            }
            (FieldType::Address, Value::Prefix(prefix)) => {
                self.check_family(Family::of(prefix.addr()), layer, value)
            }
            (FieldType::App | FieldType::Cgroup, Value::Path(path)) => self.check_path(path),
            _ => Err(self.mismatch(value)),
        }
    }

    fn check_family(&self, family: Family, layer: Layer, value: &Value) -> Result<(), Error> {
        if family == layer.family {
            return Ok(());
        }
        Err(Error::new(
            Code::TypeMismatch,
            format!(
                "{value} is {}, but the layer {layer} is for {}",
                family.name(),
                layer.family.name()
            ),
        ))
    }

    fn check_path(&self, path: &str) -> Result<(), Error> {
        if path.len() > PATH_SIZE_MAX {
            return Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "the path for {} can have at most {PATH_SIZE_MAX} bytes; this one has {}",
                    self.field,
                    path.len()
                ),
            ));
        }
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidParameter,
            format!(
                "{} needs a path that begins with / and has no NUL byte; this is {path:?}",
                self.field
            ),
        ))
    }

    fn check_order(&self, low: &Value, high: &Value) -> Result<(), Error> {
        let in_order = match (low, high) {
            (Value::Uint(low), Value::Uint(high)) => low <= high,
            (Value::Address(low), Value::Address(high)) => low <= high,
            _ => return Err(self.mismatch(&self.value)),
        };
        if in_order {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidRange,
            format!(
                "the range {low}-{high} for {} ends before it begins; write the lower end first",
                self.field
            ),
        ))
    }

    fn mismatch(&self, value: &Value) -> Error {
        Error::new(
            Code::TypeMismatch,
            format!(
                "{} cannot be compared with {value} by the match type {}",
                self.field,
                self.match_type.name()
            ),
        )
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uint(number) => write!(f, "{number}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            Self::Path(path) => write!(f, "{path}"),
            Self::Range(low, high) => write!(f, "{low}-{high}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.match_type {
            MatchType::Equal | MatchType::Range => "=",
            MatchType::NotEqual => "!=",
            MatchType::Greater => ">",
            MatchType::Less => "<",
            MatchType::GreaterOrEqual => ">=",
            MatchType::LessOrEqual => "<=",
            other => return write!(f, "{} {} {}", self.field, other.name(), self.value),
        };
        write!(f, "{}{sign}{}", self.field, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerKind;

    const CONNECT4: Layer = Layer {
        kind: LayerKind::ConnectRedirect,
        family: Family::V4,
    };

    fn code(field: Field, match_type: MatchType, value: Value) -> Option<Code> {
        let condition = Condition {
            field,
            match_type,
            value,
        };
        condition.check(CONNECT4).err().map(|error| error.code)
    }

    #[test]
    fn each_field_takes_only_match_types_and_values_of_its_type() {
        use Code::{MatchTypeMismatch, TypeMismatch};
        let path = || Value::Path("/bin/sh".into());
        let address = || Value::Address("10.0.0.1".parse().unwrap());
        let prefix = || Value::Prefix("10.0.0.0/8".parse().unwrap());
        let range = |low, high| Value::Range(Box::new(low), Box::new(high));
        for (field, match_type, value, expected) in [
            (Field::App, MatchType::Equal, path(), None),
            (
                Field::App,
                MatchType::Equal,
                Value::Uint(1),
                Some(TypeMismatch),
            ),
            (
                Field::App,
                MatchType::Prefix,
                path(),
                Some(MatchTypeMismatch),
            ),
            (Field::Cgroup, MatchType::Prefix, path(), None),
            (Field::RemoteAddress, MatchType::Equal, prefix(), None),
            (
                Field::RemoteAddress,
                MatchType::Less,
                prefix(),
                Some(TypeMismatch),
            ),
            (Field::RemoteAddress, MatchType::Less, address(), None),
            (
                Field::RemoteAddress,
                MatchType::FlagsAllSet,
                address(),
                Some(MatchTypeMismatch),
            ),
            (
                Field::RemotePort,
                MatchType::EqualCaseInsensitive,
                Value::Uint(1),
                Some(MatchTypeMismatch),
            ),
            (
                Field::RemotePort,
                MatchType::Equal,
                Value::Uint(65_536),
                Some(Code::OutOfBounds),
            ),
            (
                Field::RemotePort,
                MatchType::Range,
                Value::Uint(1),
                Some(TypeMismatch),
            ),
            (
                Field::RemotePort,
                MatchType::Range,
                range(Value::Uint(2), Value::Uint(1)),
                Some(Code::InvalidRange),
            ),
            (
                Field::RemotePort,
                MatchType::Range,
                range(Value::Uint(2), address()),
                Some(TypeMismatch),
            ),
            (
                Field::RemotePort,
                MatchType::Equal,
                range(Value::Uint(1), Value::Uint(2)),
                Some(TypeMismatch),
            ),
            (
                Field::App,
                MatchType::Equal,
                Value::Path("curl".into()),
                Some(Code::InvalidParameter),
            ),
            (
                Field::Direction,
                MatchType::Equal,
                Value::Uint(0),
                Some(Code::ConditionNotFound),
            ),
        ] {
            assert_eq!(
                code(field, match_type, value.clone()),
                expected,
                "{field} {match_type:?} {value}"
            );
        }
    }

    #[test]
    fn an_address_of_the_other_family_is_refused() {
        let v6 = Value::Address("::1".parse().unwrap());
        assert_eq!(
            code(Field::RemoteAddress, MatchType::Equal, v6),
            Some(Code::TypeMismatch)
        );
    }
}
