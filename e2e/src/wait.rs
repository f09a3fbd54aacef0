//! Waits until a condition holds, with a deadline.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Time between two evaluations of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls the condition until it holds. Panics after [`DEADLINE`], and says what was awaited.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {} seconds in vain until {what}",
            DEADLINE.as_secs()
        );
        std::thread::park_timeout(POLL_INTERVAL);
    }
}
