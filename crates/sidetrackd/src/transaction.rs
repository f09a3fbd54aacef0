//! One writer at a time (specification, 4.1): those who wait are served in their order.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidetrack_policy::{Code, Error, Objects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a call waits for the writer before it, unless its session says otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(15);
/// The longest wait a session may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// An explicit transaction of a session.
#[derive(Debug)]
pub struct Transaction {
    /// The objects as it has them.
    pub objects: Objects,
    /// Of a writing one.
    pub permit: Option<WritePermit>,
}

/// The place of the writer.
#[derive(Clone, Debug)]
pub struct WriteLock {
    semaphore: Arc<Semaphore>,
    waiting: Arc<AtomicU32>,
    holder: Arc<Mutex<Option<Holder>>>,
}

/// Who is at it.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The session.
    pub session: u64,
    /// Since when.
    pub since: Instant,
}

/// The right to write, until it is dropped.
#[derive(Debug)]
pub struct WritePermit {
    holder: Arc<Mutex<Option<Holder>>>,
    // Fields are dropped after `drop`: the holder's name goes before the place is free.
    _permit: OwnedSemaphorePermit,
}

struct WaitingCall<'a>(&'a AtomicU32);

impl WriteLock {
    /// Waits for its turn. Errors: FWP_E_TIMEOUT.
    pub async fn acquire(&self, session: u64, wait: Duration) -> Result<WritePermit, Error> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The caller may go away while it waits.
        let _waiting = WaitingCall(&self.waiting);
        let place = Arc::clone(&self.semaphore).acquire_owned();
        let Ok(Ok(permit)) = timeout(wait, place).await else {
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

    /// Who writes now.
    pub fn holder(&self) -> Option<Holder> {
        *lock(&self.holder)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn timed_out(&self, wait: Duration) -> Error {
        let who = match self.holder() {
            Some(holder) => format!(
                "session {} has been writing for {} s",
                holder.session,
                holder.since.elapsed().as_secs()
            ),
            None => "others were before it".into(),
        };
        let waited = wait.as_millis();
        Error::new(
            Code::Timeout,
            format!("the call waited {waited} ms for its turn to write; {who}"),
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
