//! Transactions, and the lock that lets one session write at a time (docs/wfp.md, 4.1). Waiting
//! calls get the lock in the order in which they were made.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidetrack_policy::{Code, Error, Objects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a call waits for the lock, unless its session's options have another time.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(15);
/// The longest wait that a session's options may have.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// An explicit transaction of a session, between its begin and its commit or abort.
#[derive(Debug)]
pub struct Transaction {
    /// The transaction's copy of the objects, with its changes.
    pub objects: Objects,
    /// The permit to write; `None` in a read-only transaction.
    pub permit: Option<WritePermit>,
}

/// A lock that one session at a time holds in order to write. Clones are the same lock.
#[derive(Clone, Debug)]
pub struct WriteLock {
    semaphore: Arc<Semaphore>,
    waiting: Arc<AtomicU32>,
    holder: Arc<Mutex<Option<Holder>>>,
}

/// The session that holds the lock.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The id of the session.
    pub session: u64,
    /// The time at which it got the lock.
    pub since: Instant,
}

/// The permission to write. Dropping it releases the lock.
#[derive(Debug)]
pub struct WritePermit {
    holder: Arc<Mutex<Option<Holder>>>,
    // Fields are dropped after `drop` has run: `holder` is cleared before the lock is free for the
    // next session.
    _permit: OwnedSemaphorePermit,
}

/// Counts a call as waiting until it is dropped.
struct WaitingCall<'a>(&'a AtomicU32);

impl WriteLock {
    /// Acquires the lock for a session, and waits for at most `wait`. Errors: FWP_E_TIMEOUT.
    pub async fn acquire(&self, session: u64, wait: Duration) -> Result<WritePermit, Error> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The future may be dropped while it waits, because the client has gone.
        let _waiting = WaitingCall(&self.waiting);
        let acquired = Arc::clone(&self.semaphore).acquire_owned();
        let Ok(Ok(permit)) = timeout(wait, acquired).await else {
            return Err(self.timed_out(wait));
        };
        *lock(&self.holder) = Some(Holder {
            session,
            since: Instant::now(),
        });
        Ok(WritePermit {
            holder: Arc::clone(&self.holder),
            _permit: permit,
        })
    }

    /// Returns the session that holds the lock, if any does.
    pub fn holder(&self) -> Option<Holder> {
        *lock(&self.holder)
    }

    /// Returns the number of calls that wait for the lock.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn timed_out(&self, wait: Duration) -> Error {
        let reason = match self.holder() {
            Some(holder) => format!(
                "session {} has held it for {} s",
                holder.session,
                holder.since.elapsed().as_secs()
            ),
            None => "other calls were before it in the queue".into(),
        };
        let waited = wait.as_millis();
        Error::new(
            Code::Timeout,
            format!("the call waited {waited} ms for the write lock; {reason}"),
        )
    }
}

impl Default for WriteLock {
    fn default() -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(1)),
            waiting: Arc::default(),
            holder: Arc::default(),
        }
    }
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        *lock(&self.holder) = None;
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock(holder: &Mutex<Option<Holder>>) -> std::sync::MutexGuard<'_, Option<Holder>> {
    holder.lock().unwrap_or_else(PoisonError::into_inner)
}
