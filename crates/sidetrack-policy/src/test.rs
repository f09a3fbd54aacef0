//! Conditions as the kernel tests them: 128 bits of a field, compared under a mask or with two
//! bounds.

use crate::field::FieldType;
use crate::field_values::{CGROUP_LEVELS_MAX, Host, address_key, address_max, address_min};
use crate::{Code, Condition, Error, Field, Layer, MatchType, Value};

/// A lowered condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Test {
    /// Number of the field value that is tested: a [`Field`], or a level of one of the cgroup fields.
    pub(crate) field: u8,
    /// True if the result is inverted.
    pub(crate) negate: bool,
    pub(crate) kind: TestKind,
}

/// How a test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TestKind {
    /// The bits of the mask equal those of the value.
    Masked { value: u128, mask: u128 },
    /// The field is from low to high, both included.
    Between { low: u128, high: u128 },
}

/// Holds for no value: under an empty mask every field is 0.
const NEVER: TestKind = TestKind::Masked { value: 1, mask: 0 };
/// Holds for every value.
const ALWAYS: TestKind = TestKind::Masked { value: 0, mask: 0 };

/// Number of the field value for level 1 of the original program's cgroup: the levels follow the
/// fields.
const CGROUP_LEVELS: u8 = Field::ALL.len() as u8;
/// Number of the field value for level 1 of the current program's cgroup.
const CURRENT_CGROUP_LEVELS: u8 = CGROUP_LEVELS + CGROUP_LEVELS_MAX as u8;

impl Test {
    /// Lowers a condition that [`Condition::check`] has accepted. A path that does not exist equals
    /// nothing.
    ///
    /// Errors: FWP_E_OUT_OF_BOUNDS for a prefix condition on a cgroup deeper than
    /// [`CGROUP_LEVELS_MAX`].
    pub(crate) fn of(condition: &Condition, layer: Layer, host: &dyn Host) -> Result<Self, Error> {
        if let (FieldType::Cgroup, Value::Path(path)) = (condition.field.kind(), &condition.value) {
            return cgroup_test(condition, path, host);
        }
        let (negate, kind) = compare(condition, layer, host);
        Ok(Self {
            field: condition.field as u8,
            negate,
            kind,
        })
    }

    /// True if the test fails for every value of its field.
    pub(crate) fn is_impossible(&self) -> bool {
        match self.kind {
            TestKind::Masked { value, mask } if self.negate => mask == 0 && value == 0,
            TestKind::Masked { value, mask } => value & !mask != 0,
            TestKind::Between { low, high } => !self.negate && low > high,
        }
    }

    /// The test as a prefix of its field's bits, as value and length; none if it is not of this form.
    pub(crate) fn prefix(&self) -> Option<(u128, u8)> {
        match self.kind {
            TestKind::Masked { value, mask }
                if !self.negate
                    && value & !mask == 0
                    && mask.leading_ones() + mask.trailing_zeros().min(128) >= 128 =>
            {
                Some((value, mask.leading_ones() as u8))
            }
            _ => None,
        }
    }
}

/// Lowers a condition on a field that is not a cgroup. Returns whether the test is negated, and the
/// test.
fn compare(condition: &Condition, layer: Layer, host: &dyn Host) -> (bool, TestKind) {
    let (least, most) = match condition.field.kind() {
        FieldType::Uint(most) => (0, most.into()),
        FieldType::Address => (address_min(layer.family), address_max(layer.family)),
        FieldType::App | FieldType::Cgroup => (0, u128::MAX),
    };
    let between = |low, high| TestKind::Between { low, high };
    let number = number(&condition.value);
    match condition.match_type {
        MatchType::Equal => (false, equal(&condition.value, host)),
        MatchType::NotEqual => (true, equal(&condition.value, host)),
        MatchType::Greater if number >= most => (false, NEVER),
        MatchType::Greater => (false, between(number + 1, most)),
        MatchType::GreaterOrEqual => (false, between(number, most)),
        MatchType::Less if number <= least => (false, NEVER),
        MatchType::Less => (false, between(least, number - 1)),
        MatchType::LessOrEqual => (false, between(least, number)),
        MatchType::Range => match &condition.value {
            Value::Range(low, high) => (false, between(self::number(low), self::number(high))),
            _ => (false, NEVER),
        },
        MatchType::FlagsAllSet => (
            false,
            TestKind::Masked {
                value: number,
                mask: number,
            },
        ),
        MatchType::FlagsNoneSet => (
            false,
            TestKind::Masked {
                value: 0,
                mask: number,
            },
        ),
        MatchType::FlagsAnySet => (
            true,
            TestKind::Masked {
                value: 0,
                mask: number,
            },
        ),
        // These match types are for cgroups and strings only.
        MatchType::Prefix | MatchType::NotPrefix | MatchType::EqualCaseInsensitive => {
            (false, NEVER)
        }
    }
}

fn equal(value: &Value, host: &dyn Host) -> TestKind {
    let exactly = |value| TestKind::Masked {
        value,
        mask: u128::MAX,
    };
    match value {
        Value::Prefix(prefix) => {
            let free = prefix.max_prefix_len() - prefix.prefix_len();
            // An IPv4 prefix is a prefix of the IPv4-mapped form.
            let mask = u128::MAX.checked_shl(free.into()).unwrap_or(0);
            TestKind::Masked {
                value: address_key(prefix.addr()) & mask,
                mask,
            }
        }
        Value::Path(path) => host.file(path).map_or(NEVER, |file| exactly(file.key())),
        other => exactly(number(other)),
    }
}

fn number(value: &Value) -> u128 {
    match value {
        Value::Uint(number) => u128::from(*number),
        Value::Address(address) => address_key(*address),
        _ => 0,
    }
}

/// Lowers a condition on a cgroup. A prefix condition tests the cgroup's own level of the field.
fn cgroup_test(condition: &Condition, path: &str, host: &dyn Host) -> Result<Test, Error> {
    let negate = matches!(
        condition.match_type,
        MatchType::NotEqual | MatchType::NotPrefix
    );
    let below = matches!(
        condition.match_type,
        MatchType::Prefix | MatchType::NotPrefix
    );
    let exactly = |id: u64| TestKind::Masked {
        value: id.into(),
        mask: u128::MAX,
    };
    let own = condition.field as u8;
    let levels = match condition.field {
        Field::CurrentCgroup => CURRENT_CGROUP_LEVELS,
        _ => CGROUP_LEVELS,
    };
    let (field, kind) = match host.cgroup(path) {
        None => (own, NEVER),
        Some(found) if found.level == 0 && below => (own, ALWAYS),
        Some(found) if found.level == 0 => (own, exactly(0)),
        Some(found) if !below => (own, exactly(found.id)),
        Some(found) if found.level as usize <= CGROUP_LEVELS_MAX => {
            (levels + found.level as u8 - 1, exactly(found.id))
        }
        Some(found) => {
            return Err(Error::new(
                Code::OutOfBounds,
                format!(
                    "the cgroup {path} is {} levels below the root; the match types prefix and \
                     not_prefix can test at most {CGROUP_LEVELS_MAX} levels",
                    found.level
                ),
            ));
        }
    };
    Ok(Test {
        field,
        negate,
        kind,
    })
}

impl Condition {
    /// True if no connection can satisfy the condition, on any host.
    pub(crate) fn is_impossible(&self, layer: Layer) -> bool {
        /// A host on which every path exists.
        struct AnyHost;
        impl Host for AnyHost {
            fn file(&self, _: &str) -> Option<crate::field_values::FileId> {
                Some(crate::field_values::FileId {
                    device: 1,
                    inode: 1,
                })
            }
            fn cgroup(&self, path: &str) -> Option<crate::field_values::CgroupId> {
                let level = u32::from(!path.trim_matches('/').is_empty());
                Some(crate::field_values::CgroupId { id: 1, level })
            }
        }
        let test = Test::of(self, layer, &AnyHost);
        test.is_ok_and(|test| test.is_impossible())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerKind;

    #[test]
    fn conditions_that_no_connection_can_satisfy_are_recognised() {
        let layer = LayerKind::ConnectRedirect.both()[0];
        let impossible = |field, match_type, value| {
            Condition {
                field,
                match_type,
                value,
            }
            .is_impossible(layer)
        };
        assert!(impossible(
            Field::RemotePort,
            MatchType::Less,
            Value::Uint(0)
        ));
        assert!(impossible(
            Field::RemotePort,
            MatchType::Greater,
            Value::Uint(65_535)
        ));
        assert!(impossible(
            Field::Flags,
            MatchType::FlagsAnySet,
            Value::Uint(0)
        ));
        assert!(!impossible(
            Field::Flags,
            MatchType::FlagsAllSet,
            Value::Uint(0)
        ));
        assert!(!impossible(
            Field::RemotePort,
            MatchType::Less,
            Value::Uint(1)
        ));
        let root = Value::Path("/".into());
        assert!(impossible(Field::Cgroup, MatchType::NotPrefix, root));
    }
}
