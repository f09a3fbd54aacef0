//! Byte counts, and from them whether a connection is idle.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::Ended;
use crate::end::How;

/// How often within the idle time-out the counts are looked at: a connection ends at most a quarter
/// of the time-out late, and no timer is set anew for each chunk.
pub const IDLE_CHECKS: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
    /// Bytes read from the client to look at, before they are passed on.
    pub(crate) sniffed: AtomicU64,
    /// Directions that are over.
    pub(crate) ends: AtomicU8,
}

impl Progress {
    /// Waits until no byte has gone either way for `timeout`.
    pub(crate) async fn idle(&self, timeout: Duration) {
        let mut last = self.sum();
        let mut quiet = 0;
        while quiet < IDLE_CHECKS {
            sleep(timeout / IDLE_CHECKS).await;
            let now = self.sum();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
    }

    pub(crate) fn ended(&self, how: How) -> Ended {
        Ended {
            bytes_up: self.up.load(Ordering::Relaxed),
            bytes_down: self.down.load(Ordering::Relaxed),
            how,
        }
    }

    /// Bytes that the client was given.
    pub(crate) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    fn sum(&self) -> u64 {
        [&self.up, &self.down, &self.sniffed]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}
