//! The policies that the helper writes to a store until it is killed. The number of a policy's filters, and
//! their descriptions, identify its commit.

use sidetrack_policy::{Filter, Objects};

/// The boot in which the store is written and read.
pub(super) const BOOT: &str = "a boot";

/// Returns the number of filters of the nth commit.
pub(super) fn filter_count(n: u64) -> u128 {
    10 + u128::from(n % 17)
}

/// Returns the number of the commit of a policy, or none if it has no filter.
pub(super) fn commit_number(objects: &Objects) -> Option<u64> {
    let first = objects.all::<Filter>().next()?;
    Some(first.identity.description.parse().unwrap())
}
