//! Sessions (docs/wfp.md, 4.1). A session lasts as long as its client's stream. A dynamic session
//! outlives the daemon: the next daemon waits for its client to resume it.

mod options;
mod resumable;

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, SystemTime};

use sidetrack_abi::text::count;
use sidetrack_api::config::Config;
use sidetrack_policy::set::{Author, Reach};
use sidetrack_policy::{Code, Error as Refusal, Objects};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Mutex, Semaphore, mpsc};

pub use self::options::SessionOptions;
use self::resumable::ResumableSessions;
use crate::Error;
use crate::access::Peer;
use crate::committer::Handle;
use crate::data_path::Generation;
use crate::event::{EventKind, EventLog, SessionClient};
use crate::quota::{Portion, Quota};
use crate::transaction::{
    AbortReason, Held, HeldLock, HoldLimit, Transaction, WriteLock, WritePermit,
};

/// Maximum number of events in a session's queue. Further events are dropped until the client
/// reads.
const EVENTS_MAX: usize = 8;

/// What a session's client is notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Its transaction was aborted: it was held too long, or root waited for the write lock.
    TransactionAborted,
    /// The daemon is stopping.
    Stopping,
}

/// Maximum number of read-only transactions, a quota. Each may keep objects that have been replaced.
pub const READ_ONLY_MAX: usize = 32;

/// All sessions, and the lock for the one that writes.
pub struct Sessions {
    registry: Lock<Registry>,
    /// The quota of sessions, open ones and those that wait for their clients.
    quota: Arc<Quota>,
    /// The quota of read-only transactions.
    read_only: Arc<Quota>,
    hold: Duration,
    grace: Duration,
    committer: Handle,
    write_lock: WriteLock,
    log: EventLog,
    /// The runtime that does not wait for the calls of users other than root.
    runtime: Runtime,
}

/// The sessions by id.
struct Registry {
    open: HashMap<u64, Arc<Session>>,
    /// Dynamic sessions of the previous daemon that wait for their clients.
    resumable: ResumableSessions,
    /// Whether the daemon is stopping: clients then disconnect because of it, and their objects are
    /// kept.
    stopping: bool,
}

/// An open session of a client.
pub struct Session {
    /// Its id: random, so that it cannot be guessed, and not 0.
    pub id: u64,
    /// Its name, which `sidetrack state` shows.
    pub name: String,
    /// Whether its objects are deleted when it ends.
    pub dynamic: bool,
    /// The process that opened it.
    pub peer: Peer,
    /// Whose connections the filters that it adds apply to.
    reach: Reach,
    /// The time at which it was opened or resumed.
    pub opened: SystemTime,
    /// How long its calls wait for the write lock.
    wait: Duration,
    /// What it takes of the quota of sessions.
    _portion: Portion,
    events: mpsc::Sender<SessionEvent>,
    /// Has no permits, and is closed when the session ends: that wakes the session's calls that
    /// wait for the write lock.
    end: Semaphore,
    state: Mutex<LockedState>,
}

/// The part of a session that changes, behind its lock.
#[derive(Default)]
struct LockedState {
    transaction: Option<Transaction>,
    /// Number of transactions so far, by which [`Sessions::abort_when_it_must_end`] recognises its
    /// own.
    number: u64,
    /// Why the last transaction was aborted. The next call fails once with FWP_E_TXN_ABORTED.
    aborted: Option<AbortReason>,
    /// Whether the session has ended.
    ended: bool,
}

impl Sessions {
    /// Creates the registry, without open sessions. Sessions that have dynamic objects in the store
    /// wait for their clients. It must be called within the runtime that serves root.
    pub fn new(config: &Config, committer: Handle, log: EventLog) -> Arc<Self> {
        let quota = Quota::new("sessions", config.limits.sessions);
        let objects = committer.in_force().objects;
        Arc::new(Self {
            registry: Lock::new(Registry {
                open: HashMap::new(),
                resumable: ResumableSessions::from_objects(&objects, &quota),
                stopping: false,
            }),
            quota,
            read_only: Quota::new("read-only transactions", READ_ONLY_MAX),
            hold: config.transaction_hold(),
            grace: config.session_grace(),
            committer,
            write_lock: WriteLock::default(),
            log,
            runtime: Runtime::current(),
        })
    }

    /// Opens a session, or resumes one that waits. The receiver returns the session's events. `reach`
    /// is whose connections the peer's filters apply to.
    ///
    /// Errors: FWP_E_OUT_OF_BOUNDS, [`Error::QuotaExceeded`]; FWP_E_SESSION_ABORTED or
    /// FWP_E_INVALID_PARAMETER if the session cannot be resumed.
    pub fn open(
        &self,
        peer: Peer,
        reach: Reach,
        options: SessionOptions,
    ) -> Result<(Arc<Session>, mpsc::Receiver<SessionEvent>), Error> {
        let wait = options.checked_wait()?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let mut registry = self.lock();
        let (id, portion, message) = match options.resume {
            None => {
                let portion = self.quota.take(peer.uid)?;
                (registry.unused_id(), portion, "session opened")
            }
            Some(id) => {
                let portion = registry.resumable.resume(id, peer.uid, &self.quota)?;
                (id, portion, "session resumed")
            }
        };
        let session = Arc::new(Session {
            id,
            name: options.name,
            dynamic: options.dynamic,
            peer,
            reach,
            opened: SystemTime::now(),
            wait,
            _portion: portion,
            events,
            end: Semaphore::new(0),
            state: Mutex::default(),
        });
        registry.open.insert(id, Arc::clone(&session));
        drop(registry);
        self.log
            .push(EventKind::SessionOpened(session.client()), message);
        Ok((session, receiver))
    }

    /// Finds an open session of the peer's process by its id.
    ///
    /// Errors: FWP_E_SESSION_ABORTED; FWP_E_NULL_POINTER if the id is 0.
    pub fn find(&self, id: u64, peer: &Peer) -> Result<Arc<Session>, Error> {
        if id == 0 {
            let text = "the call has no session_id; open a session and set it";
            return Err(Refusal::new(Code::NullPointer, text).into());
        }
        let session = self.lock().open.get(&id).cloned();
        // The answer for another process's session is the same as for one that does not exist.
        let own =
            session.filter(|session| (session.peer.pid, session.peer.uid) == (peer.pid, peer.uid));
        own.ok_or_else(|| session_gone().into())
    }

    /// Ends a session. Aborts its transaction, and deletes its objects if it is dynamic. While the
    /// daemon is stopping, the objects are kept for the next daemon instead.
    pub async fn end(&self, session: &Session) {
        let stopping = self.lock().remove(session.id);
        session.end.close();
        let mut state = session.state.lock().await;
        state.ended = true;
        state.transaction = None;
        drop(state);
        let mut objects = 0;
        if session.dynamic && !stopping {
            let counts = self.delete_objects(session.peer.uid, vec![session.id]);
            objects = counts.await.iter().sum();
        }
        let text = format!("session ended, and {} with it", count(objects, "object"));
        self.log
            .push(EventKind::SessionEnded(session.client()), text);
    }

    /// Waits for the grace time, then ends all sessions that no client has resumed, in one commit.
    pub async fn end_unresumed(self: Arc<Self>) {
        tokio::time::sleep(self.grace).await;
        let unresumed = self.lock().resumable.take();
        if unresumed.is_empty() {
            return;
        }
        let ids = unresumed.iter().map(|(id, _)| *id).collect();
        let counts = self.delete_objects(0, ids).await;
        for ((session, uid), objects) in unresumed.into_iter().zip(counts) {
            let message = format!(
                "session ended, and {} with it: no client resumed it within {} s of the daemon's start",
                count(objects, "object"),
                self.grace.as_secs()
            );
            let pid = 0;
            let client = SessionClient { session, pid, uid };
            self.log.push(EventKind::SessionEnded(client), message);
        }
    }

    /// Deletes the objects of ended sessions, as a task of a user, and returns how many each had. If
    /// that fails, it logs the error and returns zeros, and the committer tries again later.
    async fn delete_objects(&self, uid: u32, sessions: Vec<u64>) -> Vec<usize> {
        let none = vec![0; sessions.len()];
        let task = self
            .committer
            .run(uid, move |committer| committer.end_sessions(&sessions));
        task.await.flatten().unwrap_or_else(|error| {
            tracing::error!(
                "cannot delete the objects of sessions that have ended: {}",
                error.with_sources()
            );
            none
        })
    }

    /// Returns all open sessions, the oldest first.
    pub fn open_sessions(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.lock().open.values().cloned().collect();
        all.sort_by_key(|session| session.opened);
        all
    }

    /// Returns id and user id of each session that waits for its client.
    pub fn resumable(&self) -> Vec<(u64, u32)> {
        self.lock().resumable.all()
    }

    /// Returns the lock that a session holds in order to write.
    pub fn write_lock(&self) -> &WriteLock {
        &self.write_lock
    }

    /// Notifies all sessions that the daemon is stopping.
    pub fn stop(&self) {
        let mut registry = self.lock();
        registry.stopping = true;
        for session in registry.open.values() {
            session.send(SessionEvent::Stopping);
        }
    }

    /// Begins an explicit transaction, and returns the generation on which it is based.
    ///
    /// Errors: FWP_E_TXN_IN_PROGRESS, FWP_E_TIMEOUT, FWP_E_TXN_ABORTED, FWP_E_SESSION_ABORTED,
    /// [`Error::QuotaExceeded`].
    pub async fn begin(
        self: &Arc<Self>,
        session: &Arc<Session>,
        read_only: bool,
    ) -> Result<Generation, Error> {
        let (sessions, session) = (Arc::clone(self), Arc::clone(session));
        self.in_runtime_of_root(async move { sessions.begin_here(&session, read_only).await })
            .await
    }

    async fn begin_here(
        self: &Arc<Self>,
        session: &Arc<Session>,
        read_only: bool,
    ) -> Result<Generation, Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        if state.transaction.is_some() {
            let text = "the session already has a transaction; commit or abort it first";
            return Err(Refusal::new(Code::TxnInProgress, text).into());
        }
        state.number += 1;
        let (held, in_force) = if read_only {
            let place = self.read_only.take(session.peer.uid)?;
            (Held::Place(place), self.committer.in_force())
        } else {
            let permit = session.acquire_write_lock(&self.write_lock).await?;
            let task = self
                .committer
                .run(session.peer.uid, |committer| committer.begin_transaction());
            let in_force = task.await?;
            let limit = self.limit_hold(session, state.number);
            (Held::Lock(HeldLock { permit, limit }), in_force)
        };
        state.transaction = Some(Transaction {
            objects: in_force.objects,
            held,
        });
        Ok(in_force.generation)
    }

    /// Commits the session's transaction, and returns the generation in force. After an error, too,
    /// the session has no transaction.
    ///
    /// Errors: FWP_E_NO_TXN_IN_PROGRESS, FWP_E_TXN_ABORTED, FWP_E_SESSION_ABORTED, and those of
    /// [`Committer::commit`](crate::committer::Committer::commit).
    pub async fn commit(&self, session: &Session) -> Result<Generation, Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        let Transaction { objects, held } = state.transaction.take().ok_or_else(no_transaction)?;
        let Held::Lock(HeldLock { permit, limit }) = held else {
            return Ok(self.committer.in_force().generation);
        };
        drop(limit);
        let task = self.committer.run(session.peer.uid, move |committer| {
            let committed = committer.commit_transaction(objects);
            // Released here, so that the next writer starts from this commit even if the caller no
            // longer waits.
            drop(permit);
            committed
        });
        task.await?
    }

    /// Discards the session's transaction.
    ///
    /// Errors: FWP_E_NO_TXN_IN_PROGRESS, FWP_E_TXN_ABORTED, FWP_E_SESSION_ABORTED.
    pub async fn abort(&self, session: &Session) -> Result<(), Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        let aborted = state.transaction.take();
        aborted.map(drop).ok_or_else(|| no_transaction().into())
    }

    /// Changes objects within the session's transaction or, if it has none, in an implicit one.
    /// Returns the change's result and the generation in force afterwards. If `change` fails, it
    /// must have changed nothing.
    ///
    /// Errors: the change's, FWP_E_INCOMPATIBLE_TXN, FWP_E_TIMEOUT, FWP_E_TXN_ABORTED,
    /// FWP_E_SESSION_ABORTED, and those of
    /// [`Committer::commit`](crate::committer::Committer::commit).
    pub async fn change<R: Send + 'static>(
        self: &Arc<Self>,
        session: &Arc<Session>,
        change: impl FnOnce(&mut Objects, &Author) -> Result<R, Refusal> + Send + 'static,
    ) -> Result<(R, Generation), Error> {
        let author = session.author();
        let mut state = session.state.lock().await;
        state.check()?;
        match &mut state.transaction {
            Some(Transaction {
                held: Held::Place(_),
                ..
            }) => {
                let text = "the transaction is read-only; abort it first";
                Err(Refusal::new(Code::IncompatibleTxn, text).into())
            }
            Some(transaction) => {
                let objects = &mut transaction.objects;
                let result = tokio::task::block_in_place(|| change(objects, &author))?;
                Ok((result, self.committer.in_force().generation))
            }
            None => {
                let (sessions, session) = (Arc::clone(self), Arc::clone(session));
                self.in_runtime_of_root(async move {
                    let permit = session.acquire_write_lock(&sessions.write_lock).await?;
                    let task = sessions.committer.run(session.peer.uid, move |committer| {
                        let _permit = permit;
                        committer.begin_transaction();
                        committer.commit(|objects| change(objects, &author))
                    });
                    task.await?
                })
                .await
            }
        }
    }

    /// Does a part of a call in root's runtime: one that waits for the write lock. The lock is handed to
    /// such a part, which must run soon, however busy the runtime of the other users is. The part ends
    /// if the caller no longer waits.
    async fn in_runtime_of_root<R: Send + 'static>(
        &self,
        part: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Error> {
        let task = self.runtime.spawn(part);
        let _end = HoldLimit(task.abort_handle());
        task.await.unwrap_or(Err(Error::Stopping))
    }

    /// Returns the objects as a session sees them: those of its transaction, or those in force.
    ///
    /// Errors: FWP_E_TXN_ABORTED, FWP_E_SESSION_ABORTED.
    pub async fn view(&self, session: Option<&Session>) -> Result<Objects, Error> {
        if let Some(session) = session {
            let mut state = session.state.lock().await;
            state.check()?;
            if let Some(transaction) = &state.transaction {
                return Ok(transaction.objects.clone());
            }
        }
        Ok(self.committer.in_force().objects)
    }

    /// Starts the task that aborts the session's transaction of this number once it must end. It runs
    /// in root's runtime, so that root does not wait for the calls of other users.
    fn limit_hold(self: &Arc<Self>, session: &Arc<Session>, number: u64) -> HoldLimit {
        let task = Arc::clone(self).abort_when_it_must_end(Arc::clone(session), number);
        HoldLimit(self.runtime.spawn(task).abort_handle())
    }

    async fn abort_when_it_must_end(self: Arc<Self>, session: Arc<Session>, number: u64) {
        let reason = self.write_lock.must_end(session.peer.uid, self.hold).await;
        let mut state = session.state.lock().await;
        if state.number != number {
            return;
        }
        // This ends the task at its next await, so there is none below.
        if state.transaction.take().is_none() {
            return;
        }
        state.aborted = Some(reason);
        drop(state);
        session.send(SessionEvent::TransactionAborted);
        let text = format!("a transaction {}", reason.text());
        self.log
            .push(EventKind::TransactionAborted(session.client()), text);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Removes a session. Returns whether the daemon is stopping.
    fn remove(&mut self, session: u64) -> bool {
        self.open.remove(&session);
        self.stopping
    }

    /// Returns an unused session id.
    fn unused_id(&self) -> u64 {
        let mut random = || uuid::Uuid::new_v4().as_u64_pair().0;
        let taken = |id: &u64| self.open.contains_key(id) || self.resumable.contains(*id);
        std::iter::repeat_with(&mut random)
            .find(|id| *id != 0 && !taken(id))
            .unwrap_or_default()
    }
}

impl Session {
    /// Returns the author of the objects that this session adds.
    pub fn author(&self) -> Author {
        Author {
            session: self.dynamic.then_some(self.id),
            uid: self.peer.uid,
            owner: None,
            reach: self.reach,
        }
    }

    fn client(&self) -> SessionClient {
        SessionClient {
            session: self.id,
            pid: self.peer.pid,
            uid: self.peer.uid,
        }
    }

    /// Returns whether it has a transaction. A session that is busy with a call counts as having
    /// one.
    pub fn in_transaction(&self) -> bool {
        let state = self.state.try_lock();
        state.map_or(true, |state| state.transaction.is_some())
    }

    /// Acquires the write lock. Errors: FWP_E_TIMEOUT, FWP_E_SESSION_ABORTED.
    async fn acquire_write_lock(&self, lock: &WriteLock) -> Result<WritePermit, Refusal> {
        tokio::select! {
            permit = lock.acquire(self.id, self.peer.uid, self.wait) => permit,
            _ = self.end.acquire() => Err(session_gone()),
        }
    }

    fn send(&self, event: SessionEvent) {
        // If the queue is full, the client learns of it from the error of its next call.
        let _ = self.events.try_send(event);
    }
}

impl LockedState {
    /// Errors: FWP_E_SESSION_ABORTED; FWP_E_TXN_ABORTED, once, after a transaction was aborted.
    fn check(&mut self) -> Result<(), Refusal> {
        if self.ended {
            return Err(session_gone());
        }
        if let Some(reason) = self.aborted.take() {
            let text = format!("the transaction {}; begin a new one", reason.text());
            return Err(Refusal::new(Code::TxnAborted, text));
        }
        Ok(())
    }
}

fn session_gone() -> Refusal {
    Refusal::new(
        Code::SessionAborted,
        "the session has ended or belongs to another process; open a new one",
    )
}

fn no_transaction() -> Refusal {
    Refusal::new(
        Code::NoTxnInProgress,
        "the session has no transaction; begin one first",
    )
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session {} of process {}", self.id, self.peer.pid)
    }
}
