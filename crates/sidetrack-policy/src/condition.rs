//! Conditions: a field, a way to compare, a value (specification, 4.4 and 4.5).
//!
//! Conditions of the same field are alternatives; different fields must all be met.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::field::FieldType;
use crate::{Code, Error, Family, Field, Layer};

/// Bytes of a path in a value.
pub const PATH_SIZE_MAX: usize = 4096;

/// One question about a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// About what.
    pub field: Field,
    /// Compared how.
    pub match_type: MatchType,
    /// With what.
    pub value: Value,
}

/// How a field is compared (WFP: FWP_MATCH_TYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchType {
    /// The same; for an address with a prefix: within it.
    Equal,
    /// Of numbers and addresses.
    Greater,
    /// Of numbers and addresses.
    Less,
    /// Of numbers and addresses.
    GreaterOrEqual,
    /// Of numbers and addresses.
    LessOrEqual,
    /// Of numbers and addresses; both ends belong to it.
    Range,
    /// Of numbers: all bits of the value are set.
    FlagsAllSet,
    /// Of numbers: some bit of the value is set.
    FlagsAnySet,
    /// Of numbers: no bit of the value is set.
    FlagsNoneSet,
    /// Of texts; no field is one, so it is always refused.
    EqualCaseInsensitive,
    /// Not [`MatchType::Equal`].
    NotEqual,
    /// Of cgroups: this one, or one below it.
    Prefix,
    /// Of cgroups: neither this one nor one below it.
    NotPrefix,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A number.
    Uint(u64),
    /// An address.
    Address(IpAddr),
    /// All addresses of a prefix.
    Prefix(IpNet),
    /// An executable, or a cgroup below the hierarchy's root.
    Path(String),
    /// From the first to the last, both included.
    Range(Box<Self>, Box<Self>),
}

impl MatchType {
    /// All, in WFP's order.
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

    /// As in policy files.
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

    fn goes_with(self, kind: FieldType) -> bool {
        match self {
            Self::Equal | Self::NotEqual => true,
            Self::Greater | Self::Less | Self::GreaterOrEqual | Self::LessOrEqual | Self::Range => {
                matches!(kind, FieldType::Uint(_) | FieldType::Address)
            }
            Self::FlagsAllSet | Self::FlagsAnySet | Self::FlagsNoneSet => {
                matches!(kind, FieldType::Uint(_))
            }
            Self::Prefix | Self::NotPrefix => kind == FieldType::Cgroup,
            Self::EqualCaseInsensitive => false,
        }
    }
}

impl Condition {
    /// A condition that asks for one value.
    pub fn equal(field: Field, value: Value) -> Self {
        Self {
            field,
            match_type: MatchType::Equal,
            value,
        }
    }

    /// Checks field, match type and value against one another, and against a layer.
    ///
    /// Errors: FWP_E_CONDITION_NOT_FOUND, …MATCH_TYPE_MISMATCH, …TYPE_MISMATCH, …OUT_OF_BOUNDS,
    /// …INVALID_RANGE, …INVALID_NET_MASK.
    pub fn check(&self, layer: Layer) -> Result<(), Error> {
        self.field.require_at(layer.kind)?;
        let kind = self.field.kind();
        if !self.match_type.goes_with(kind) {
            return Err(Error::new(
                Code::MatchTypeMismatch,
                format!(
                    "{} cannot be compared by {}",
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

    fn check_value(&self, value: &Value, layer: Layer) -> Result<(), Error> {
        match (self.field.kind(), value) {
            (FieldType::Uint(most), Value::Uint(number)) if *number > most => Err(Error::new(
                Code::OutOfBounds,
                format!("{} goes to {most}; {number} is beyond", self.field),
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
            format!("{value} is not an address of layer {layer}"),
        ))
    }

    fn check_path(&self, path: &str) -> Result<(), Error> {
        if path.len() > PATH_SIZE_MAX {
            return Err(Error::new(
                Code::OutOfBounds,
                format!("a path of {} has at most {PATH_SIZE_MAX} bytes", self.field),
            ));
        }
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidParameter,
            format!(
                "{} needs a path that begins with /; this is {path:?}",
                self.field
            ),
        ))
    }

    fn check_order(&self, low: &Value, high: &Value) -> Result<(), Error> {
        let upright = match (low, high) {
            (Value::Uint(low), Value::Uint(high)) => low <= high,
            (Value::Address(low), Value::Address(high)) => low <= high,
            _ => return Err(self.mismatch(&self.value)),
        };
        if upright {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidRange,
            format!(
                "the range {low}-{high} of {} ends before it begins",
                self.field
            ),
        ))
    }

    fn mismatch(&self, value: &Value) -> Error {
        Error::new(
            Code::TypeMismatch,
            format!(
                "{value} is not a value that {} is compared with by {}",
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
    fn each_field_takes_its_own_types_only() {
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
