//! `bpf/policy.h`, item by item: the image of a policy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a line.
pub const LINE_SIZE: usize = 64;

/// Filters of one policy.
pub const FILTERS_MAX: usize = 100_000;
/// Cgroups below the root that a condition can be below of.
pub const CGROUP_LEVELS_MAX: usize = 8;

/// Layers of both families.
pub const LAYERS: usize = 12;
/// Fields, the levels of cgroups included.
pub const FIELDS: usize = 32;

/// Line 0.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Policy {
    /// Counts commits.
    pub generation: u32,
    /// Bit n: layer n has filters.
    pub layers: u32,
    /// How many filters there are.
    pub filters: u32,
    /// How many lines there are.
    pub lines: u32,
    /// Zero.
    pub reserved: [u32; 12],
}

/// The first layer's line.
pub const LAYER_LINE: u32 = 1;

/// A layer.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Layer {
    /// Line of its index.
    pub root: u32,
    /// Bit n: some condition asks about field n.
    pub wants: u32,
    /// Rank of its first filter.
    pub first: u32,
    /// Rank after its last.
    pub end: u32,
    /// `LAYER_*`.
    pub flags: u32,
    /// `PREFILTER_*`: the protocols that some filter may match.
    pub protocols: u32,
    /// Bit n: some filter may match a remote address whose first byte is n.
    pub addresses: [u64; 4],
    /// Bit n: some filter may match a remote port with these lower six bits.
    pub ports: u64,
}

/// TCP.
pub const PREFILTER_TCP: u32 = 0x1;
/// UDP.
pub const PREFILTER_UDP: u32 = 0x2;
/// Any other protocol.
pub const PREFILTER_OTHER_PROTOCOL: u32 = 0x4;

/// It has vetoes or inspections.
pub const LAYER_BEYOND_HARD_PERMIT: u32 = 0x1;

/// The first of the services' places, of IPv4 and then of IPv6.
pub const PLACE_LINE: u32 = LAYER_LINE + LAYERS as u32;
/// Lines of one family's places.
pub const PLACE_LINES: u32 = 16;
/// The first filter's line.
pub const FILTER_LINE: u32 = PLACE_LINE + 2 * PLACE_LINES;

/// Soft, unless the right to act is cleared.
pub const ACTION_PERMIT: u8 = 1;
/// Hard.
pub const ACTION_BLOCK: u8 = 2;
/// As a callout blocks.
pub const ACTION_VETO: u8 = 3;
/// An event.
pub const ACTION_INSPECT: u8 = 4;
/// To a service.
pub const ACTION_REDIRECT: u8 = 5;

/// Its permit is hard.
pub const FILTER_CLEAR_ACTION_RIGHT: u8 = 0x1;
/// Passed over while its service is absent.
pub const FILTER_ABSENT_PERMIT: u8 = 0x2;
/// It may act on multicast and broadcast.
pub const FILTER_GROUPS: u8 = 0x4;

/// A filter; its line tells its rank.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Filter {
    /// Shown in flows and events.
    pub id: u64,
    /// Rank of the next sublayer's first.
    pub sublayer_end: u32,
    /// Of a redirect: 0 none, `CONTEXT_AUTO`, else a fixed context.
    pub context_id: u32,
    /// Line of the first; the others follow.
    pub conditions: u32,
    /// How many.
    pub condition_count: u32,
    /// Of a redirect.
    pub service: u16,
    /// `ACTION_*`.
    pub action: u8,
    /// `FILTER_*`.
    pub flags: u8,
    /// Of the condition that is tested first: as in [`Condition`].
    pub field: u8,
    /// As in [`Condition`].
    pub kind: u8,
    /// As in [`Condition`].
    pub negate: u8,
    /// 0: it has no condition that stands alone for its field.
    pub has_first: u8,
    /// As in [`Condition`].
    pub low: [u64; 2],
    /// As in [`Condition`].
    pub high: [u64; 2],
}

/// Equal to `low` under the mask `high`.
pub const TEST_MASKED: u8 = 0;
/// From `low` to `high`, both included.
pub const TEST_BETWEEN: u8 = 1;

/// A condition of a filter.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Condition {
    /// The upper half first.
    pub low: [u64; 2],
    /// Likewise.
    pub high: [u64; 2],
    /// Of whose value.
    pub field: u8,
    /// `TEST_*`.
    pub kind: u8,
    /// The answer is turned round.
    pub negate: u8,
    /// The next one is of another field.
    pub last_of_field: u8,
    /// Zero.
    pub reserved: [u32; 7],
}

/// [`List`].
pub const NODE_LIST: u8 = 1;
/// [`Index`] with [`Bucket`]s.
pub const NODE_HASH: u8 = 2;
/// [`Index`] with [`Branch`]es.
pub const NODE_TREE: u8 = 3;
/// [`Branch`].
pub const NODE_BRANCH: u8 = 4;

/// Ranks in one line.
pub const LIST_RANKS: usize = 13;

/// Filters that may match, in rising order.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct List {
    /// [`NODE_LIST`].
    pub kind: u8,
    /// How many ranks.
    pub count: u8,
    /// Zero.
    pub reserved: u16,
    /// Line of the list that goes on; 0 none.
    pub next: u32,
    /// Of the ranks in it and after it.
    pub lowest: u32,
    /// Ranks.
    pub ranks: [u32; LIST_RANKS],
}

/// A node that asks about one field.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Index {
    /// [`NODE_HASH`] or [`NODE_TREE`].
    pub kind: u8,
    /// Which field.
    pub field: u8,
    /// Zero.
    pub reserved: u16,
    /// Of the ranks below it.
    pub lowest: u32,
    /// Line of the index of those that do not fix the field; 0 none.
    pub rest: u32,
    /// Line of the first bucket, or of the tree's first branch.
    pub first: u32,
    /// Of a hash: buckets - 1.
    pub mask: u32,
    /// Zero.
    pub reserved2: [u32; 11],
}

/// Values in one line.
pub const BUCKET_KEYS: usize = 3;

/// Values of a field, each with its node.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Bucket {
    /// Values.
    pub keys: [[u64; 2]; BUCKET_KEYS],
    /// Line of the node for each value; 0 none.
    pub child: [u32; BUCKET_KEYS],
    /// Line of the bucket that goes on; 0 none.
    pub next: u32,
}

/// A branch of a tree of prefixes.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Branch {
    /// [`NODE_BRANCH`].
    pub kind: u8,
    /// Bits of `key` that count.
    pub length: u8,
    /// Zero.
    pub reserved: u16,
    /// Line of the branch for each value of the next bit; 0 none.
    pub child: [u32; 2],
    /// Line of the node for exactly this prefix; 0 none.
    pub group: u32,
    /// The prefix.
    pub key: [u64; 2],
    /// Line of the nearest branch above that has a group; 0 none.
    pub up: u32,
    /// Zero.
    pub reserved2: [u32; 7],
}

/// Where a value is in a hash; `value_mix` in `bpf/filter.h` is the same.
pub fn mix(value: [u64; 2]) -> u32 {
    let mixed = (value[0].wrapping_mul(0xff51_afd7_ed55_8ccd) ^ value[1])
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// What the classify program is asked, and answers.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ClassifyRequest {
    /// Which layer.
    pub layer: u32,
    /// Redirects of a lower rank count as seen.
    pub legacy_min_rank: u32,
    /// Services, one bit each.
    pub seen: [u64; 4],
    /// Likewise, if `absent_given`.
    pub absent: [u64; 4],
    /// 0: those that have no listener are absent.
    pub absent_given: u32,
    /// Zero.
    pub reserved: u32,
    /// Each field's.
    pub values: [[u64; 2]; FIELDS],
    /// 1 if the rest is filled in.
    pub completed: u32,
    /// Of the policy that answered.
    pub generation: u32,
    /// Not permitted.
    pub blocked: u32,
    /// Lower sublayers could not change it.
    pub hard: u32,
    /// A hard permit was overruled.
    pub vetoed: u32,
    /// Blocked because the service is absent.
    pub absent_blocked: u32,
    /// Rank, or [`NO_RANK`].
    pub decided_by: u32,
    /// Rank, or [`NO_RANK`].
    pub redirect: u32,
}

/// None.
pub const NO_RANK: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<Policy>() == LINE_SIZE);
    assert!(size_of::<Layer>() == LINE_SIZE);
    assert!(size_of::<Filter>() == LINE_SIZE);
    assert!(size_of::<Condition>() == LINE_SIZE);
    assert!(size_of::<List>() == LINE_SIZE);
    assert!(size_of::<Index>() == LINE_SIZE);
    assert!(size_of::<Bucket>() == LINE_SIZE);
    assert!(size_of::<Branch>() == LINE_SIZE);
};
