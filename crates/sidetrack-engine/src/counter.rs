//! Counters of the kernel side.

use sidetrack_abi::kernel::COUNTERS;

/// A reading of all counters. They count from the time when the engine was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub(crate) values: Vec<u64>,
    /// Number of flows that are connecting or established now: `flows_live` in `bpf/maps.h`.
    pub flows: u64,
}

/// The counters, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // bpf/sidetrack.h, enum sidetrack_counter, documents each
pub enum Counter {
    Redirected,
    HandedOver,
    Queried,
    Linked,
    AbsentBlocked,
    AbsentPermitted,
    ChainTooLong,
    RecordsMissing,
    SelfConnect,
    RecordsStale,
    BadToken,
    BadSecret,
    FlowsFull,
    FlowsLost,
    GraceCut,
    EventsDropped,
    Blocked,
    Vetoed,
    Inspected,
    SearchCut,
    ProgramUnknown,
    DatagramsForged,
    DatagramsUnrouted,
    LostWithProxy,
    RecordsBound,
    Pended,
    Completed,
    PendedEnded,
    NoticesLost,
    SynsForged,
    SenderRefused,
}

impl Counters {
    /// The value of one counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.values.get(counter as usize).copied().unwrap_or(0)
    }

    /// All counters, with the names that users see.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        COUNTERS.into_iter().zip(self.values.iter().copied())
    }
}
