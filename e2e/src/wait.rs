//! Waiting on a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks at a condition that nobody announces.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until the condition holds. Panics after [`DEADLINE`], saying what was awaited.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(LOOK);
    }
}
