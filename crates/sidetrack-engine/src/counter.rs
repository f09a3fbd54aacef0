//! What the kernel side has counted.

use sidetrack_abi::kernel::COUNTERS;

/// A reading of all counters, since the engine was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub(crate) values: Vec<u64>,
    /// Flows that are connecting, or have a socket, now.
    pub flows: u64,
}

/// A counter, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is described in bpf/sidetrack.h, enum sidetrack_counter
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
}

impl Counters {
    /// One value.
    pub fn value(&self, counter: Counter) -> u64 {
        self.values.get(counter as usize).copied().unwrap_or(0)
    }

    /// All, with the names shown to people.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        COUNTERS.into_iter().zip(self.values.iter().copied())
    }
}
