//! A layer's index, with which the kernel finds the filters that may match.
//!
//! Each node tests the field that distinguishes its filters best, an address by a tree of prefixes
//! and any other field by a hash table. Filters that do not fix that field are under `rest`, in a
//! separate index. A few filters, or filters that no field distinguishes, are a list.

use std::collections::{BTreeMap, HashMap};

use sidetrack_abi::kernel;
use zerocopy::FromZeros;

use super::image::{Image, halves};
use crate::Field;
use crate::test::Test;

/// Up to this number of filters, a node is always a list.
const LIST_MAX: usize = 6;
/// A filter fixes no more fields than it has this number of combinations of their alternatives. Each
/// combination may need an own place in the index, so a few filters could otherwise fill the memory.
const COMBINATIONS_MAX: usize = 16;

/// A value of a field and the number of its bits that count, from the highest on; 128 for an exact
/// value.
type Prefix = (u128, u8);

/// Builds the index of the filters with these ranks. Returns the line of its root.
///
/// If some filters are restricted to one user (`by_user`), the root tests the user, so that these
/// filters cost other users' connections nothing.
pub(super) fn build(
    image: &mut Image,
    tests: &[Vec<(bool, Test)>],
    ranks: std::ops::Range<usize>,
    by_user: bool,
) -> u32 {
    let mut builder = Builder {
        image,
        first: ranks.start as u32,
        fixed: tests[ranks.clone()]
            .iter()
            .map(|tests| fixed_fields(tests))
            .collect(),
    };
    let ranks = ranks.map(|rank| rank as u32).collect();
    match by_user {
        true => builder.index(ranks, 0, Field::User as u8),
        false => builder.node(ranks, 0),
    }
}

/// The fields that a filter fixes, each with the alternatives to which it fixes it.
fn fixed_fields(tests: &[(bool, Test)]) -> Vec<(u8, Vec<Prefix>)> {
    let mut fields = Vec::new();
    let mut start = 0;
    for (index, (last, _)) in tests.iter().enumerate() {
        if !last {
            continue;
        }
        let alternatives = &tests[start..=index];
        start = index + 1;
        // Alternatives for a cgroup may test several levels, which are separate fields here. Then
        // the filter fixes none of them.
        let field = alternatives[0].1.field;
        if alternatives.iter().any(|(_, test)| test.field != field) {
            continue;
        }
        let prefixes: Option<Vec<Prefix>> = alternatives
            .iter()
            .map(|(_, test)| {
                test.prefix()
                    .filter(|&(_, length)| is_address(field) || length == 128)
            })
            .collect();
        fields.extend(prefixes.map(|prefixes| (field, prefixes)));
    }
    fields.sort_by_key(|(_, prefixes): &(u8, Vec<Prefix>)| prefixes.len());
    let mut combinations = 1;
    let within = fields.iter().take_while(|(_, prefixes)| {
        combinations *= prefixes.len();
        combinations <= COMBINATIONS_MAX
    });
    let count = within.count();
    fields.truncate(count);
    fields
}

fn is_address(field: u8) -> bool {
    field == Field::LocalAddress as u8 || field == Field::RemoteAddress as u8
}

struct Builder<'a> {
    image: &'a mut Image,
    /// Rank of the layer's first filter.
    first: u32,
    /// The fields that each filter fixes, by rank, beginning with the layer's first.
    fixed: Vec<Vec<(u8, Vec<Prefix>)>>,
}

impl Builder<'_> {
    /// Builds an index of ranks, which ascend, and returns its line; 0 if there is no rank.
    /// `tested` is the set of fields that the nodes above test.
    fn node(&mut self, ranks: Vec<u32>, tested: u32) -> u32 {
        if ranks.is_empty() {
            return 0;
        }
        let Some(field) = self.best_field(&ranks, tested) else {
            return self.list(&ranks);
        };
        self.index(ranks, tested, field)
    }

    /// Builds an index of ranks, which are not empty, whose root tests a field.
    fn index(&mut self, ranks: Vec<u32>, tested: u32, field: u8) -> u32 {
        let lowest = ranks[0];
        let (groups, rest) = self.partition(ranks, field);
        let tested = tested | 1 << field;
        let groups: Vec<_> = groups
            .into_iter()
            .map(|(prefix, ranks)| (prefix, self.node(ranks, tested)))
            .collect();
        let rest = self.node(rest, tested);
        if is_address(field) {
            self.tree(field, lowest, rest, &groups)
        } else {
            self.hash(field, lowest, rest, &groups)
        }
    }

    /// Groups the ranks by the values to which their filters fix a field; the others are returned
    /// separately.
    fn partition(&self, ranks: Vec<u32>, field: u8) -> (BTreeMap<Prefix, Vec<u32>>, Vec<u32>) {
        let mut groups: BTreeMap<Prefix, Vec<u32>> = BTreeMap::new();
        let mut rest = Vec::new();
        for rank in ranks {
            match self.fixed(rank).iter().find(|(fixed, _)| *fixed == field) {
                None => rest.push(rank),
                Some((_, prefixes)) => {
                    for &prefix in prefixes {
                        let group = groups.entry(prefix).or_default();
                        if group.last() != Some(&rank) {
                            group.push(rank);
                        }
                    }
                }
            }
        }
        (groups, rest)
    }

    fn fixed(&self, rank: u32) -> &[(u8, Vec<Prefix>)] {
        &self.fixed[(rank - self.first) as usize]
    }

    /// The field that distinguishes the most filters; none if a list is as good.
    fn best_field(&self, ranks: &[u32], tested: u32) -> Option<u8> {
        if ranks.len() <= LIST_MAX {
            return None;
        }
        let mut counts: BTreeMap<u8, HashMap<Prefix, usize>> = BTreeMap::new();
        for &rank in ranks {
            for (field, prefixes) in self.fixed(rank) {
                if tested & 1 << field == 0 {
                    *counts
                        .entry(*field)
                        .or_default()
                        .entry(prefixes[0])
                        .or_default() += 1;
                }
            }
        }
        counts
            .into_iter()
            .map(|(field, values)| {
                let fixed: usize = values.values().sum();
                let largest = values.values().max().copied().unwrap_or(0);
                (fixed - largest, field)
            })
            .filter(|&(distinguished, _)| distinguished >= LIST_MAX / 2)
            .max_by_key(|&(distinguished, field)| (distinguished, std::cmp::Reverse(field)))
            .map(|(_, field)| field)
    }

    fn list(&mut self, ranks: &[u32]) -> u32 {
        let mut next = 0;
        for part in ranks.chunks(kernel::LIST_RANKS).rev() {
            let mut list = kernel::List {
                kind: kernel::NODE_LIST,
                count: part.len() as u8,
                next,
                lowest: part[0],
                ..kernel::List::new_zeroed()
            };
            list.ranks[..part.len()].copy_from_slice(part);
            next = self.image.add(&list);
        }
        next
    }

    fn hash(&mut self, field: u8, lowest: u32, rest: u32, groups: &[(Prefix, u32)]) -> u32 {
        let buckets = groups.len().div_ceil(2).next_power_of_two();
        let first = self.image.reserve(buckets);
        let mask = buckets as u32 - 1;
        for &((value, _), child) in groups {
            self.put_in_bucket(first + (kernel::mix(halves(value)) & mask), value, child);
        }
        self.image.add(&kernel::Index {
            kind: kernel::NODE_HASH,
            field,
            lowest,
            rest,
            first,
            mask,
            ..kernel::Index::new_zeroed()
        })
    }

    /// Puts a value in the bucket at a line, or in those after it. Only the last one that was added after
    /// it can have room, so values of the same hash, which users can choose, do not make this slow.
    fn put_in_bucket(&mut self, line: u32, value: u128, child: u32) {
        let first: kernel::Bucket = self.image.get(line);
        for line in [line, first.next] {
            let mut bucket: kernel::Bucket = self.image.get(line);
            let free = bucket.child.iter().position(|&child| child == 0);
            if let (true, Some(free)) = (line != 0, free) {
                bucket.keys[free] = halves(value);
                bucket.child[free] = child;
                return self.image.put(line, &bucket);
            }
        }
        let mut added = kernel::Bucket {
            next: first.next,
            ..kernel::Bucket::new_zeroed()
        };
        added.keys[0] = halves(value);
        added.child[0] = child;
        let next = self.image.add(&added);
        self.image.put(line, &kernel::Bucket { next, ..first });
    }

    fn tree(&mut self, field: u8, lowest: u32, rest: u32, groups: &[(Prefix, u32)]) -> u32 {
        let first = self.branch(groups, 0);
        self.image.add(&kernel::Index {
            kind: kernel::NODE_TREE,
            field,
            lowest,
            rest,
            first,
            ..kernel::Index::new_zeroed()
        })
    }

    /// Builds a branch of the tree and returns its line; 0 if there is no group. The prefixes
    /// ascend, of the same bits the shorter before the longer. `up` is the line of the nearest
    /// branch above that has a group.
    fn branch(&mut self, groups: &[(Prefix, u32)], up: u32) -> u32 {
        let (Some(&(first, group)), Some(&(last, _))) = (groups.first(), groups.last()) else {
            return 0;
        };
        // The branch is as long as the bits that all prefixes share. If a prefix ends there, it is
        // the first one.
        let length = ((first.0 ^ last.0).leading_zeros() as u8).min(first.1);
        let own = length == first.1;
        let below = if own { &groups[1..] } else { groups };
        let number = self.image.reserve(1);
        let up_below = if own { number } else { up };
        let split = below.partition_point(|((key, _), _)| key << length >> 127 == 0);
        let child = [
            self.branch(&below[..split], up_below),
            self.branch(&below[split..], up_below),
        ];
        self.image.put(
            number,
            &kernel::Branch {
                key: halves(first.0 & mask(length)),
                kind: kernel::NODE_BRANCH,
                length,
                child,
                group: if own { group } else { 0 },
                up,
                ..kernel::Branch::new_zeroed()
            },
        );
        number
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestKind;

    /// Several fields with many alternatives each would have a place in the index for each combination.
    #[test]
    fn a_filter_fixes_few_combinations_of_alternatives() {
        let fields = [
            Field::RemotePort,
            Field::LocalPort,
            Field::User,
            Field::Netns,
        ];
        let tests: Vec<(bool, Test)> = fields
            .into_iter()
            .flat_map(|field| (0..16_u128).map(move |value| (field, value)))
            .map(|(field, value)| {
                let mask = u128::MAX;
                let test = Test {
                    field: field as u8,
                    negate: false,
                    kind: TestKind::Masked { value, mask },
                };
                (value == 15, test)
            })
            .collect();
        let fixed = fixed_fields(&tests);
        let combinations: usize = fixed.iter().map(|(_, prefixes)| prefixes.len()).product();
        assert_eq!((fixed.len(), combinations), (1, COMBINATIONS_MAX));
    }
}
