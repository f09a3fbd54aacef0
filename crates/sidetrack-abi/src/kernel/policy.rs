//! The items of `bpf/policy.h`: the image of a policy, an array of lines.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of bytes of a line.
pub const LINE_SIZE: usize = 64;

/// Largest number of filters of one policy.
pub const FILTERS_MAX: usize = 100_000;
/// Levels of cgroups below the root at which a condition can test for an ancestor.
pub const CGROUP_LEVELS_MAX: usize = 8;

/// Number of layers, counting both families.
pub const LAYERS: usize = 12;
/// Number of fields, counting each level of cgroups.
pub const FIELDS: usize = 32;

/// Line 0: the head.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Policy {
    /// Number of the policy; each commit increments it.
    pub generation: u32,
    /// Bit n: layer n has filters.
    pub layers: u32,
    /// Number of filters.
    pub filters: u32,
    /// Number of lines.
    pub lines: u32,
    /// Id of the daemon's store that the policy comes from; zeros if it comes from none.
    pub store: [u8; 16],
    /// Number of the commit to that store.
    pub commit: u64,
    /// Zero.
    pub reserved: [u32; 6],
}

/// Line of the first layer.
pub const LAYER_LINE: u32 = 1;

/// A layer: where its filters and its index are, and its prefilter.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Layer {
    /// Line of the root of its index; 0 if it has no filters.
    pub root: u32,
    /// Bit n: some condition tests field n.
    pub wants: u32,
    /// Rank of its first filter.
    pub first: u32,
    /// Rank after that of its last filter.
    pub end: u32,
    /// [`LAYER_BEYOND_HARD_PERMIT`], or 0.
    pub flags: u32,
    /// Prefilter, `PREFILTER_*`: some filter may match these protocols.
    pub protocols: u32,
    /// Prefilter, bit n: some filter may match a remote address whose first byte is n.
    pub addresses: [u64; 4],
    /// Prefilter, bit n: some filter may match a remote port that is n modulo 64.
    pub ports: u64,
}

/// The prefilter's bit for TCP.
pub const PREFILTER_TCP: u32 = 0x1;
/// The prefilter's bit for UDP.
pub const PREFILTER_UDP: u32 = 0x2;
/// The prefilter's bit for all other protocols.
pub const PREFILTER_OTHER_PROTOCOL: u32 = 0x4;

/// The layer has veto or inspect filters, so a hard permit does not end its evaluation.
pub const LAYER_BEYOND_HARD_PERMIT: u32 = 0x1;

/// Line of the places of the services, first those of IPv4 and then those of IPv6. A place is 1 + the
/// rank of the service's last filter at the connect redirect layer, or 0 if it has none.
pub const PLACE_LINE: u32 = LAYER_LINE + LAYERS as u32;
/// Number of lines for the places of one family.
pub const PLACE_LINES: u32 = 16;
/// Line of the first filter; that of the filter with rank n is n lines further.
pub const FILTER_LINE: u32 = PLACE_LINE + 2 * PLACE_LINES;

/// The filter permits: softly, unless it has [`FILTER_CLEAR_ACTION_RIGHT`].
pub const ACTION_PERMIT: u8 = 1;
/// The filter blocks, with a hard verdict.
pub const ACTION_BLOCK: u8 = 2;
/// The filter vetoes, as a WFP callout blocks.
pub const ACTION_VETO: u8 = 3;
/// The filter only emits an event.
pub const ACTION_INSPECT: u8 = 4;
/// The filter redirects to a service.
pub const ACTION_REDIRECT: u8 = 5;

/// The filter's permit is hard.
pub const FILTER_CLEAR_ACTION_RIGHT: u8 = 0x1;
/// The filter is skipped while its service is absent.
pub const FILTER_ABSENT_PERMIT: u8 = 0x2;
/// The filter may match multicast and broadcast.
pub const FILTER_GROUPS: u8 = 0x4;
/// It is restricted to one user: it neither matches connections of elevated programs nor lifts a
/// block.
pub const FILTER_RESTRICTED: u8 = 0x8;

/// A filter. Its line determines its rank.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Filter {
    /// Id that flows and events show.
    pub id: u64,
    /// Rank of the first filter of the next sublayer.
    pub sublayer_end: u32,
    /// Redirect: 0 for no context, `CONTEXT_AUTO`, or a fixed context's number.
    pub context_id: u32,
    /// Line of the first condition; the others follow it.
    pub conditions: u32,
    /// Number of these conditions.
    pub condition_count: u32,
    /// Redirect: number of the service.
    pub service: u16,
    /// `ACTION_*`.
    pub action: u8,
    /// `FILTER_*`.
    pub flags: u8,
    /// [`Condition::field`] of the one condition that is tested first and is not among the others.
    pub field: u8,
    /// [`Condition::kind`] of this condition.
    pub kind: u8,
    /// [`Condition::negate`] of this condition.
    pub negate: u8,
    /// 0: no field has one condition only, so there is no such condition.
    pub has_first: u8,
    /// [`Condition::low`] of this condition.
    pub low: [u64; 2],
    /// [`Condition::high`] of this condition.
    pub high: [u64; 2],
}

/// The value, under the mask `high`, equals `low`.
pub const TEST_MASKED: u8 = 0;
/// The value is not below `low` and not above `high`.
pub const TEST_BETWEEN: u8 = 1;

/// A condition of a filter. Those of one field follow one another; of each field, one must hold.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Condition {
    /// Operand of the test, the upper half first.
    pub low: [u64; 2],
    /// Operand of the test, the upper half first.
    pub high: [u64; 2],
    /// The field whose value is tested.
    pub field: u8,
    /// `TEST_*`.
    pub kind: u8,
    /// 1: the condition holds if the test does not.
    pub negate: u8,
    /// 1: the next condition tests another field.
    pub last_of_field: u8,
    /// Zero.
    pub reserved: [u32; 7],
}

/// The kind of a [`List`].
pub const NODE_LIST: u8 = 1;
/// The kind of an [`Index`] with [`Bucket`]s.
pub const NODE_HASH: u8 = 2;
/// The kind of an [`Index`] with [`Branch`]es.
pub const NODE_TREE: u8 = 3;
/// The kind of a [`Branch`].
pub const NODE_BRANCH: u8 = 4;

/// Number of ranks in one line.
pub const LIST_RANKS: usize = 13;

/// A leaf of the index: filters that may match, in rising order of their ranks.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct List {
    /// [`NODE_LIST`].
    pub kind: u8,
    /// Number of ranks in this line.
    pub count: u8,
    /// Zero.
    pub reserved: u16,
    /// Line of the continuation; 0 if there is none.
    pub next: u32,
    /// Lowest rank in it and in its continuations.
    pub lowest: u32,
    /// Ranks of the filters.
    pub ranks: [u32; LIST_RANKS],
}

/// A node of the index that decides by the value of one field.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Index {
    /// [`NODE_HASH`] or [`NODE_TREE`].
    pub kind: u8,
    /// The field.
    pub field: u8,
    /// Zero.
    pub reserved: u16,
    /// Lowest rank below this node.
    pub lowest: u32,
    /// Line of the node for filters that do not fix the field; 0 if none.
    pub rest: u32,
    /// Line of the first bucket, or of the tree's first branch.
    pub first: u32,
    /// Hash: number of buckets - 1.
    pub mask: u32,
    /// Zero.
    pub reserved2: [u32; 11],
}

/// Number of values in one line.
pub const BUCKET_KEYS: usize = 3;

/// A bucket of a hash: values of its field, each with a node.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Bucket {
    /// The values.
    pub keys: [[u64; 2]; BUCKET_KEYS],
    /// Line of the node for each value; 0 if none.
    pub child: [u32; BUCKET_KEYS],
    /// Line of the overflow bucket; 0 if none.
    pub next: u32,
}

/// A branch of a tree of prefixes.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Branch {
    /// [`NODE_BRANCH`].
    pub kind: u8,
    /// Number of bits of the prefix.
    pub length: u8,
    /// Zero.
    pub reserved: u16,
    /// Line of the branch for each value of the next bit; 0 if none.
    pub child: [u32; 2],
    /// Line of the node for filters with exactly this prefix; 0 if none.
    pub group: u32,
    /// The prefix; its other bits are 0.
    pub key: [u64; 2],
    /// Line of the nearest branch above that has a group; 0 if none.
    pub up: u32,
    /// Zero.
    pub reserved2: [u32; 7],
}

/// Returns the hash of a value; `value_mix` in `bpf/filter.h` is the same.
pub fn mix(value: [u64; 2]) -> u32 {
    let mixed = (value[0].wrapping_mul(0xff51_afd7_ed55_8ccd) ^ value[1])
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// The original program of a request is elevated.
pub const CLASSIFY_ELEVATED: u32 = 0x1;

/// Argument and result of the kernel program `classify`.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ClassifyRequest {
    /// Layer to classify at, of one family.
    pub layer: u32,
    /// Services of redirects with a lower rank count as passed.
    pub legacy_min_rank: u32,
    /// Services that the connection has passed: a bit for each number.
    pub seen: [u64; 4],
    /// Absent services, if `absent_given`: a bit for each number.
    pub absent: [u64; 4],
    /// 0: services without a listener are absent.
    pub absent_given: u32,
    /// [`CLASSIFY_ELEVATED`], or 0.
    pub flags: u32,
    /// The values of all fields.
    pub values: [[u64; 2]; FIELDS],
    /// 1: the members that follow are valid.
    pub completed: u32,
    /// Generation of the policy that was used.
    pub generation: u32,
    /// 1: the verdict is a block.
    pub blocked: u32,
    /// 1: the verdict is hard.
    pub hard: u32,
    /// 1: a veto overruled a hard permit.
    pub vetoed: u32,
    /// 1: blocked because the service of a redirect is absent.
    pub absent_blocked: u32,
    /// Rank of the filter that decided; [`NO_RANK`] if none matched.
    pub decided_by: u32,
    /// Rank of the filter that redirects; [`NO_RANK`] if none does.
    pub redirect: u32,
}

/// Instead of a rank: there is no such filter.
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
