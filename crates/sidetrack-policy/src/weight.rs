//! A filter's weight, which orders it within its sublayer (docs/wfp.md, 4.6).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::field::FieldType;
use crate::{Code, Condition, Error, MatchType, Value};

/// A filter's weight as its author gives it. A filter of higher weight is evaluated earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Exactly this number (WFP: FWP_UINT64).
    Literal(u64),
    /// 0 to 15 as the upper four bits; the lower 60 bits are automatic (WFP: FWP_UINT8).
    Class(u8),
    /// Computed from the filter's conditions, below 2^60 (WFP: FWP_EMPTY).
    #[default]
    Auto,
}

const CLASS_MAX: u8 = 15;
const CLASS_SHIFT: u32 = 60;
/// Position of the number of fields in an automatic weight. The bits below it hold the sum of the fixed
/// bits, which fits because there are 16 fields of at most 128 bits.
const BITS_SHIFT: u32 = 16;

impl Weight {
    /// Checks that a class is at most 15. Errors: FWP_E_INVALID_WEIGHT.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::Class(class) if class > CLASS_MAX => Err(Error::new(
                Code::InvalidWeight,
                format!("a weight class must be from 0 to {CLASS_MAX}; this one is {class}"),
            )),
            _ => Ok(()),
        }
    }

    /// The weight as a number, for a filter with these conditions: see
    /// [`Filter::effective_weight`](crate::Filter::effective_weight).
    pub(crate) fn effective(self, conditions: &[Condition]) -> u64 {
        match self {
            Self::Literal(weight) => weight,
            Self::Class(class) => u64::from(class) << CLASS_SHIFT | automatic(conditions),
            Self::Auto => automatic(conditions),
        }
    }
}

/// The automatic part of a weight: see [`Filter::effective_weight`](crate::Filter::effective_weight).
fn automatic(conditions: &[Condition]) -> u64 {
    let fields: BTreeSet<_> = conditions.iter().map(|condition| condition.field).collect();
    let bits: u64 = fields
        .iter()
        .map(|&field| {
            let alternatives = conditions.iter().filter(|each| each.field == field);
            // The alternative that fixes the fewest bits counts.
            alternatives.map(fixed_bits).min().unwrap_or(0)
        })
        .sum();
    (fields.len() as u64) << BITS_SHIFT | bits
}

/// Approximate number of bits of its field that a condition fixes.
///
/// Never fails: for an unchecked condition, which may have a value of another type or a range with swapped
/// ends, the result is a small number.
fn fixed_bits(condition: &Condition) -> u64 {
    let width = match condition.field.kind() {
        FieldType::Uint(most) => u64::from(u64::BITS - most.leading_zeros()),
        FieldType::Address => 128,
        FieldType::App | FieldType::Cgroup => 64,
    };
    match (condition.match_type, &condition.value) {
        (MatchType::Equal, Value::Prefix(prefix)) => {
            width.saturating_sub(u64::from(prefix.max_prefix_len() - prefix.prefix_len()))
        }
        (MatchType::Equal, _) => width,
        (MatchType::Prefix, _) => width / 2,
        (MatchType::Range, Value::Range(low, high)) => match (&**low, &**high) {
            (Value::Uint(low), Value::Uint(high)) => {
                width.saturating_sub(u64::from(u64::BITS - high.abs_diff(*low).leading_zeros()))
            }
            _ => 1,
        },
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;

    #[test]
    fn a_weight_is_literal_has_a_class_or_is_automatic() {
        let port = Condition::equal(Field::RemotePort, Value::Uint(443));
        let wide = Condition::equal(
            Field::RemoteAddress,
            Value::Prefix("10.0.0.0/8".parse().unwrap()),
        );
        let narrow = Condition::equal(
            Field::RemoteAddress,
            Value::Prefix("10.0.0.0/24".parse().unwrap()),
        );
        assert_eq!(Weight::Literal(u64::MAX).effective(&[]), u64::MAX);
        assert_eq!(Weight::Class(15).effective(&[]) >> 60, 15);
        let auto = |conditions: &[Condition]| Weight::Auto.effective(conditions);
        assert!(auto(std::slice::from_ref(&wide)) < 1 << 60);
        assert!(auto(&[]) < auto(std::slice::from_ref(&wide)));
        assert!(auto(std::slice::from_ref(&wide)) < auto(std::slice::from_ref(&narrow)));
        assert!(auto(std::slice::from_ref(&narrow)) < auto(&[wide.clone(), port.clone()]));
        assert_eq!(
            Weight::Class(16).check().unwrap_err().code,
            Code::InvalidWeight
        );
    }

    #[test]
    fn an_unchecked_filter_has_a_weight_too() {
        let swapped = Value::Range(Box::new(Value::Uint(443)), Box::new(Value::Uint(80)));
        let conditions = [
            Condition {
                field: Field::RemotePort,
                match_type: MatchType::Range,
                value: swapped,
            },
            Condition::equal(Field::LocalPort, Value::Prefix("::/0".parse().unwrap())),
        ];
        assert_eq!(Weight::Auto.effective(&conditions) >> BITS_SHIFT, 2);
    }
}
