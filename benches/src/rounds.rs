//! How often each measurement is repeated.

/// The number of rounds of a full run.
pub(crate) const ROUNDS: u32 = 7;
/// The number of rounds with `--quick`.
pub(crate) const ROUNDS_QUICK: u32 = 3;
