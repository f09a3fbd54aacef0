//! How often each measurement is repeated.

/// The number of rounds of a full run.
const ROUNDS: u32 = 7;
/// The number of rounds with `--quick`.
const ROUNDS_QUICK: u32 = 3;

/// The number of rounds of a run.
pub(crate) fn rounds(quick: bool) -> u32 {
    if quick { ROUNDS_QUICK } else { ROUNDS }
}
