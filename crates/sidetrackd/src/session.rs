//! Sessions (specification, 4.1): each lasts as long as its client's stream. A dynamic one outlives its
//! daemon: at the next one it waits for its client.

mod resumable;

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, SystemTime};

use sidetrack_api::v1::{self, session_event};
use sidetrack_policy::object::{DESCRIPTION_SIZE_MAX, NAME_SIZE_MAX};
use sidetrack_policy::set::Author;
use sidetrack_policy::{Code, Error as Refusal, Objects};
use tokio::sync::{Mutex, Semaphore, mpsc};

use self::resumable::ResumableSessions;
use crate::access::Peer;
use crate::committer::Handle;
use crate::data_path::Generation;
use crate::event::EventLog;
use crate::transaction::{Transaction, WAIT_DEFAULT, WAIT_MAX, WriteLock, WritePermit};
use crate::{Config, Error};

/// Events that wait for a session's client; a client that does not read loses more.
const EVENTS_MAX: usize = 8;

/// All open sessions, and the lock for the one that writes.
pub struct Sessions {
    registry: Lock<Registry>,
    sessions_max: usize,
    hold: Duration,
    grace: Duration,
    committer: Handle,
    write_lock: WriteLock,
    log: EventLog,
}

struct Registry {
    open: HashMap<u64, Arc<Session>>,
    /// Of the daemon before.
    resumable: ResumableSessions,
    /// From now on clients go because the daemon does.
    stopping: bool,
}

/// One client's session.
pub struct Session {
    /// Its number: not 0, and not to be guessed.
    pub id: u64,
    /// For people.
    pub name: String,
    /// Whether its objects go with it.
    pub dynamic: bool,
    /// Who opened it.
    pub peer: Peer,
    /// When.
    pub opened: SystemTime,
    wait: Duration,
    events: mpsc::Sender<session_event::Event>,
    /// Closed when the session ends: then nobody waits in its name any more.
    end: Semaphore,
    state: Mutex<LockedState>,
}

#[derive(Default)]
struct LockedState {
    transaction: Option<Transaction>,
    /// Rises with each transaction.
    number: u64,
    /// It was taken away; the next call is told.
    aborted: bool,
    ended: bool,
}

impl Sessions {
    /// None open yet; those whose objects the committer found wait for their clients.
    pub fn new(config: &Config, committer: Handle, log: EventLog) -> Arc<Self> {
        Arc::new(Self {
            registry: Lock::new(Registry {
                open: HashMap::new(),
                resumable: ResumableSessions::from_objects(&committer.in_force().objects),
                stopping: false,
            }),
            sessions_max: config.limits.sessions,
            hold: config.transaction_hold(),
            grace: config.session_grace(),
            committer,
            write_lock: WriteLock::default(),
            log,
        })
    }

    /// Opens one, or resumes one that waits. What it is told comes out of the receiver.
    ///
    /// Errors: FWP_E_OUT_OF_BOUNDS, [`Error::Exhausted`]; FWP_E_SESSION_ABORTED, …INVALID_PARAMETER if it
    /// cannot be resumed.
    pub fn open(
        &self,
        peer: Peer,
        options: v1::SessionOptions,
    ) -> Result<(Arc<Session>, mpsc::Receiver<session_event::Event>), Error> {
        let wait = checked_wait(&options)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let mut registry = self.lock();
        let (id, message) = match options.resume_session_id {
            0 => (registry.free_number(self.sessions_max)?, "session opened"),
            id => {
                registry.resumable.resume(id, peer.uid)?;
                (id, "session resumed")
            }
        };
        let session = Arc::new(Session {
            id,
            name: options.name,
            dynamic: options.dynamic,
            peer,
            opened: SystemTime::now(),
            wait,
            events,
            end: Semaphore::new(0),
            state: Mutex::default(),
        });
        registry.open.insert(id, Arc::clone(&session));
        drop(registry);
        self.log_event(&session, v1::EventKind::SessionOpened, message);
        Ok((session, receiver))
    }

    /// The session of a number, if it is this peer's. Errors: FWP_E_SESSION_ABORTED, …NULL_POINTER.
    pub fn find(&self, id: u64, peer: &Peer) -> Result<Arc<Session>, Error> {
        if id == 0 {
            let text = "the call names no session; open one";
            return Err(Refusal::new(Code::NullPointer, text).into());
        }
        let session = self.lock().open.get(&id).cloned();
        // Another's session is as if it were not there.
        let own =
            session.filter(|session| (session.peer.pid, session.peer.uid) == (peer.pid, peer.uid));
        own.ok_or_else(|| session_gone().into())
    }

    /// Ends one: its transaction is aborted, and a dynamic one's objects are deleted, unless the daemon
    /// stops: then they stay for the next.
    pub async fn end(&self, session: &Session) {
        let stopping = self.lock().remove(session.id);
        session.end.close();
        let mut state = session.state.lock().await;
        state.ended = true;
        state.transaction = None;
        drop(state);
        let mut objects = 0;
        if session.dynamic && !stopping {
            objects = self.delete_objects(vec![session.id]).await.iter().sum();
        }
        let text = format!("session ended, and {objects} objects with it");
        self.log_event(session, v1::EventKind::SessionEnded, &text);
    }

    /// Gives the clients of sessions that wait their time to come back, then ends those left, in one commit.
    pub async fn end_unresumed(self: Arc<Self>) {
        tokio::time::sleep(self.grace).await;
        let late = self.lock().resumable.take();
        if late.is_empty() {
            return;
        }
        let ids = late.iter().map(|(id, _)| *id).collect();
        let counts = self.delete_objects(ids).await;
        for ((session_id, uid), objects) in late.into_iter().zip(counts) {
            let message = format!(
                "session ended, and {objects} objects with it: nobody resumed it within {} s of the \
                 daemon's start",
                self.grace.as_secs()
            );
            self.log.push(v1::Event {
                kind: v1::EventKind::SessionEnded.into(),
                message,
                session_id,
                uid,
                ..v1::Event::default()
            });
        }
    }

    /// How many each of these ended sessions had. If it cannot be done now, the committer tries again.
    async fn delete_objects(&self, sessions: Vec<u64>) -> Vec<usize> {
        let none = vec![0; sessions.len()];
        let task = self
            .committer
            .run(move |committer| committer.end_sessions(&sessions));
        task.await.flatten().unwrap_or_else(|error| {
            tracing::error!("cannot delete the objects of sessions that ended: {error}");
            none
        })
    }

    /// All open sessions, the oldest first.
    pub fn open_sessions(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.lock().open.values().cloned().collect();
        all.sort_by_key(|session| session.opened);
        all
    }

    /// Those that wait for their clients: number and user of each.
    pub fn resumable(&self) -> Vec<(u64, u32)> {
        self.lock().resumable.all()
    }

    /// Who writes, and who waits.
    pub fn write_lock(&self) -> &WriteLock {
        &self.write_lock
    }

    /// Tells all that the daemon stops.
    pub fn stop(&self) {
        let mut registry = self.lock();
        registry.stopping = true;
        for session in registry.open.values() {
            session.send(session_event::Event::Stopping(v1::Stopping {}));
        }
    }

    /// Begins an explicit transaction, and returns the generation it begins with.
    ///
    /// Errors: FWP_E_TXN_IN_PROGRESS, …TIMEOUT, …TXN_ABORTED, …SESSION_ABORTED.
    pub async fn begin(
        self: &Arc<Self>,
        session: &Arc<Session>,
        read_only: bool,
    ) -> Result<Generation, Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        if state.transaction.is_some() {
            let text = "the session has a transaction; commit or abort it first";
            return Err(Refusal::new(Code::TxnInProgress, text).into());
        }
        let (permit, in_force) = if read_only {
            (None, self.committer.in_force())
        } else {
            let permit = session.acquire_write_lock(&self.write_lock).await?;
            let begun = self
                .committer
                .run(|committer| committer.begin_transaction())
                .await?;
            (Some(permit), begun)
        };
        state.number += 1;
        if permit.is_some() {
            tokio::spawn(Arc::clone(self).abort_after_hold(Arc::clone(session), state.number));
        }
        state.transaction = Some(Transaction {
            objects: in_force.objects,
            permit,
        });
        Ok(in_force.generation)
    }

    /// Puts the transaction in force. Errors: FWP_E_NO_TXN_IN_PROGRESS, …TXN_ABORTED, and the data path's
    /// and the store's; after all of them there is no transaction any more.
    pub async fn commit(&self, session: &Session) -> Result<Generation, Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        let Transaction { objects, permit } =
            state.transaction.take().ok_or_else(no_transaction)?;
        let Some(permit) = permit else {
            return Ok(self.committer.in_force().generation);
        };
        let task = self.committer.run(move |committer| {
            let committed = committer.commit_transaction(objects);
            // The next writer begins with what this one did, even if nobody waits for the answer.
            drop(permit);
            committed
        });
        task.await?
    }

    /// Forgets the transaction. Errors: FWP_E_NO_TXN_IN_PROGRESS, …TXN_ABORTED.
    pub async fn abort(&self, session: &Session) -> Result<(), Error> {
        let mut state = session.state.lock().await;
        state.check()?;
        let aborted = state.transaction.take();
        aborted.map(drop).ok_or_else(|| no_transaction().into())
    }

    /// Changes objects: within the session's transaction, or in one of its own. Returns the generation
    /// in force afterwards. A change that fails must have changed nothing.
    ///
    /// Errors: the change's; FWP_E_INCOMPATIBLE_TXN, …TIMEOUT, …TXN_ABORTED, and the data path's and the
    /// store's.
    pub async fn change<R: Send + 'static>(
        &self,
        session: &Session,
        change: impl FnOnce(&mut Objects, &Author) -> Result<R, Refusal> + Send + 'static,
    ) -> Result<(R, Generation), Error> {
        let author = session.author();
        let mut state = session.state.lock().await;
        state.check()?;
        match &mut state.transaction {
            Some(Transaction { permit: None, .. }) => {
                let text = "the transaction is a read-only one; abort it first";
                Err(Refusal::new(Code::IncompatibleTxn, text).into())
            }
            Some(transaction) => {
                let objects = &mut transaction.objects;
                let result = tokio::task::block_in_place(|| change(objects, &author))?;
                Ok((result, self.committer.in_force().generation))
            }
            None => {
                let permit = session.acquire_write_lock(&self.write_lock).await?;
                let task = self.committer.run(move |committer| {
                    let _permit = permit;
                    committer.begin_transaction();
                    committer.commit(|objects| change(objects, &author))
                });
                task.await?
            }
        }
    }

    /// The objects as a session sees them: its transaction's, or what is in force.
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

    /// Takes a transaction away that is held too long.
    async fn abort_after_hold(self: Arc<Self>, session: Arc<Session>, number: u64) {
        tokio::time::sleep(self.hold).await;
        let mut state = session.state.lock().await;
        if state.number != number || state.transaction.take().is_none() {
            return;
        }
        state.aborted = true;
        drop(state);
        session.send(session_event::Event::TransactionAborted(
            v1::TransactionAborted {},
        ));
        let text = format!(
            "a transaction was held for {} s, and was aborted",
            self.hold.as_secs()
        );
        self.log_event(&session, v1::EventKind::TransactionAborted, &text);
    }

    fn log_event(&self, session: &Session, kind: v1::EventKind, message: &str) {
        self.log.push(v1::Event {
            kind: kind.into(),
            message: message.to_owned(),
            session_id: session.id,
            pid: session.peer.pid,
            uid: session.peer.uid,
            ..v1::Event::default()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Returns whether the daemon stops.
    fn remove(&mut self, session: u64) -> bool {
        self.open.remove(&session);
        self.stopping
    }

    /// For one more. Errors: [`Error::Exhausted`].
    fn free_number(&self, max: usize) -> Result<u64, Error> {
        if self.open.len() + self.resumable.len() >= max {
            return Err(Error::Exhausted(format!(
                "{max} sessions are open already; close some"
            )));
        }
        let mut number = || uuid::Uuid::new_v4().as_u64_pair().0;
        let taken = |id: &u64| self.open.contains_key(id) || self.resumable.contains(*id);
        Ok(std::iter::repeat_with(&mut number)
            .find(|id| *id != 0 && !taken(id))
            .unwrap_or_default())
    }
}

impl Session {
    /// As whom it changes objects.
    pub fn author(&self) -> Author {
        Author {
            session: self.dynamic.then_some(self.id),
            uid: self.peer.uid,
            owner: None,
        }
    }

    /// Whether it has a transaction. One that is busy has.
    pub fn in_transaction(&self) -> bool {
        let state = self.state.try_lock();
        state.map_or(true, |state| state.transaction.is_some())
    }

    /// Waits for its permit to write. Errors: FWP_E_TIMEOUT, …SESSION_ABORTED.
    async fn acquire_write_lock(&self, lock: &WriteLock) -> Result<WritePermit, Refusal> {
        tokio::select! {
            permit = lock.acquire(self.id, self.wait) => permit,
            _ = self.end.acquire() => Err(session_gone()),
        }
    }

    fn send(&self, event: session_event::Event) {
        // A client that does not read is told by the next call's error.
        let _ = self.events.try_send(event);
    }
}

impl LockedState {
    fn check(&mut self) -> Result<(), Refusal> {
        if self.ended {
            return Err(session_gone());
        }
        if std::mem::take(&mut self.aborted) {
            let text = "the transaction was held too long, and was aborted; begin again";
            return Err(Refusal::new(Code::TxnAborted, text));
        }
        Ok(())
    }
}

fn checked_wait(options: &v1::SessionOptions) -> Result<Duration, Refusal> {
    let limit = |what: &str, size: usize, max: usize| {
        let text = format!("a session's {what} has at most {max} bytes; this one has {size}");
        (size > max).then(|| Refusal::new(Code::OutOfBounds, text))
    };
    let long = limit("name", options.name.len(), NAME_SIZE_MAX).or_else(|| {
        limit(
            "description",
            options.description.len(),
            DESCRIPTION_SIZE_MAX,
        )
    });
    if let Some(refusal) = long {
        return Err(refusal);
    }
    if options.resume_session_id != 0 && !options.dynamic {
        let text = "only dynamic sessions are resumed; set dynamic";
        return Err(Refusal::new(Code::InvalidParameter, text));
    }
    match options.txn_wait_timeout_ms {
        None | Some(0) => Ok(WAIT_DEFAULT),
        Some(ms) if Duration::from_millis(ms.into()) > WAIT_MAX => Err(Refusal::new(
            Code::OutOfBounds,
            format!(
                "txn_wait_timeout_ms goes to {}; {ms} is beyond",
                WAIT_MAX.as_millis()
            ),
        )),
        Some(ms) => Ok(Duration::from_millis(ms.into())),
    }
}

fn session_gone() -> Refusal {
    Refusal::new(
        Code::SessionAborted,
        "the session has ended, or is not this process's; open one",
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
