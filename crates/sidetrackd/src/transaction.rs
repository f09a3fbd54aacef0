//! Transactions, and the lock that lets one session write at a time (docs/wfp.md, 4.1). Of the calls
//! that wait for the lock, root's go first, and those of the other users follow in a fair order.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidetrack_policy::{Code, Error, Objects};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::fair::{FairLock, FairLockGuard};
use crate::quota::Portion;

/// How long a call waits for the lock, unless its session's options have another time.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(15);
/// The longest wait that a session's options may have.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// An explicit transaction of a session, between its begin and its commit or abort.
#[derive(Debug)]
pub struct Transaction {
    /// The transaction's copy of the objects, with its changes.
    pub objects: Objects,
    /// What it holds in order to write, or in order to keep objects that may have been replaced.
    pub held: Held,
}

/// What an explicit transaction holds until it ends.
#[derive(Debug)]
pub enum Held {
    /// The write lock.
    Lock(HeldLock),
    /// A place among the read-only transactions.
    Place(Portion),
}

/// The write lock of an explicit transaction.
#[derive(Debug)]
pub struct HeldLock {
    /// The permission to write.
    pub permit: WritePermit,
    /// The task that aborts the transaction once it must end.
    pub limit: HoldLimit,
}

/// The task that aborts a transaction once it must end. Dropping this ends the task.
#[derive(Debug)]
pub struct HoldLimit(pub AbortHandle);

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// It was held for as long as the configuration allows.
    HeldTooLong(Duration),
    /// Root waited for the write lock.
    RootWaited,
}

/// A lock that one session at a time holds in order to write. Clones are the same lock.
#[derive(Clone, Debug, Default)]
pub struct WriteLock {
    lock: FairLock,
    waiting: Arc<AtomicU32>,
    /// Number of root's calls that wait for the lock.
    root_waiting: watch::Sender<u32>,
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
    _guard: FairLockGuard,
}

/// Counts a call as waiting until it is dropped.
struct WaitingCall<'a> {
    lock: &'a WriteLock,
    uid: u32,
}

impl WriteLock {
    /// Acquires the lock for a session of a user, and waits for at most `wait`. Errors:
    /// FWP_E_TIMEOUT.
    pub async fn acquire(
        &self,
        session: u64,
        uid: u32,
        wait: Duration,
    ) -> Result<WritePermit, Error> {
        // The future may be dropped while it waits, because the client has gone.
        let _waiting = WaitingCall::new(self, uid);
        let Ok(guard) = timeout(wait, self.lock.acquire(uid)).await else {
            return Err(self.timed_out(wait));
        };
        *lock(&self.holder) = Some(Holder {
            session,
            since: Instant::now(),
        });
        Ok(WritePermit {
            holder: Arc::clone(&self.holder),
            _guard: guard,
        })
    }

    /// Waits until a transaction of a user must end, and returns why: after the longest time that
    /// it may be held, or as soon as root waits for the lock and the user is another one.
    pub async fn must_end(&self, uid: u32, hold: Duration) -> AbortReason {
        let mut root_waiting = self.root_waiting.subscribe();
        tokio::select! {
            () = tokio::time::sleep(hold) => AbortReason::HeldTooLong(hold),
            Ok(_) = root_waiting.wait_for(|count| *count > 0), if uid != 0 => {
                AbortReason::RootWaited
            }
        }
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

impl Drop for WritePermit {
    fn drop(&mut self) {
        *lock(&self.holder) = None;
    }
}

impl Drop for HoldLimit {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<'a> WaitingCall<'a> {
    fn new(lock: &'a WriteLock, uid: u32) -> Self {
        lock.waiting.fetch_add(1, Ordering::Relaxed);
        if uid == 0 {
            lock.root_waiting.send_modify(|count| *count += 1);
        }
        Self { lock, uid }
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.lock.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.uid == 0 {
            self.lock.root_waiting.send_modify(|count| *count -= 1);
        }
    }
}

impl AbortReason {
    /// What happened, in a few words that continue "a transaction ".
    pub fn text(self) -> String {
        match self {
            Self::HeldTooLong(hold) => {
                format!("was held for {} s and was aborted", hold.as_secs())
            }
            Self::RootWaited => "was aborted because root waited for the write lock".to_owned(),
        }
    }
}

fn lock(holder: &Mutex<Option<Holder>>) -> std::sync::MutexGuard<'_, Option<Holder>> {
    holder.lock().unwrap_or_else(PoisonError::into_inner)
}
