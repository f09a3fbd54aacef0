//! The committer: one thread that owns store and data path, and puts policy in force.
//!
//! Others send it tasks, which it does one after another. A task is done even if whoever sent it does
//! not wait for the answer: a commit is never half.

mod filter_names;
mod start;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io;
use sidetrack_api::v1;
use sidetrack_policy::{self as policy, Objects};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::filter_names::FilterNames;
pub use self::start::Start;
use crate::Error;
use crate::data_path::{DataPath, Generation};
use crate::event::EventLog;
use crate::store::Store;

/// Tasks that wait; whoever sends one more waits itself.
pub const TASKS_MAX: usize = 256;

/// What is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// All objects, boot-time filters included.
    pub objects: Objects,
    /// Its number.
    pub generation: Generation,
    /// Since when.
    pub since: SystemTime,
    /// What was found amiss at the start.
    pub notes: Vec<String>,
}

/// The way to the committer. Clones lead to the same one; when the last is gone, it ends.
#[derive(Clone)]
pub struct Handle {
    // Fields are dropped in this order: the thread is woken when the way is gone.
    tasks: mpsc::Sender<Task>,
    wake: Wake,
    in_force: Arc<Mutex<InForce>>,
}

/// Wakes the thread, also when it is dropped.
#[derive(Clone)]
struct Wake(Arc<OwnedFd>);

/// What the thread has.
pub struct Committer {
    data_path: Box<dyn DataPath>,
    store: Option<Store>,
    in_force: Arc<Mutex<InForce>>,
    log: EventLog,
    filter_names: FilterNames,
    /// Sessions that ended while somebody writes: the writer's objects may still have theirs.
    ended_during_write: Vec<u64>,
    /// Sessions that ended and whose objects could not be deleted: it is tried again.
    undeleted: Vec<u64>,
}

type Task = Box<dyn FnOnce(&mut Committer) + Send>;

impl Handle {
    /// What is in force now.
    pub fn in_force(&self) -> InForce {
        lock(&self.in_force).clone()
    }

    /// Waits until the committer has ended. It does so before its handles only if it failed.
    pub async fn ended(&self) {
        self.tasks.closed().await;
    }

    /// Has something done in the committer's thread, and waits for the answer. Errors:
    /// [`Error::Stopping`].
    pub async fn run<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Committer) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (answer, answered) = oneshot::channel();
        let task: Task = Box::new(move |committer| {
            let result = task(committer);
            // Whoever asked may be gone.
            let _ = answer.send(result);
        });
        self.tasks.send(task).await.map_err(|_| Error::Stopping)?;
        self.wake.notify();
        answered.await.map_err(|_| Error::Stopping)
    }
}

impl Wake {
    fn new() -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let fd = fd.map_err(|error| Error::DataPath(format!("cannot make an eventfd: {error}")))?;
        Ok(Self(Arc::new(fd)))
    }

    fn notify(&self) {
        // It fails only if the counter is full, and then the thread is awake.
        let _ = io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.notify();
    }
}

impl Committer {
    /// Puts a change of what is in force in force: in the store first, then in the kernel. If either
    /// fails, both are as before.
    ///
    /// Errors: the change's; [`Error::Store`], [`Error::DataPath`].
    pub fn commit<R>(
        &mut self,
        change: impl FnOnce(&mut Objects) -> Result<R, policy::Error>,
    ) -> Result<(R, Generation), Error> {
        let before = lock(&self.in_force).objects.clone();
        let mut after = before.clone();
        for session in &self.undeleted {
            after.remove_session(*session);
        }
        let result = change(&mut after)?;
        let generation = self.put_in_force(&before, after)?;
        self.undeleted.clear();
        Ok((result, generation))
    }

    /// Puts a writer's objects in force, without those of sessions that ended meanwhile.
    ///
    /// Errors: as [`Self::commit`].
    pub fn commit_transaction(&mut self, mut objects: Objects) -> Result<Generation, Error> {
        for session in self.ended_during_write.iter().chain(&self.undeleted) {
            objects.remove_session(*session);
        }
        let before = lock(&self.in_force).objects.clone();
        let generation = self.put_in_force(&before, objects)?;
        self.undeleted.clear();
        Ok(generation)
    }

    /// A writer begins with what is in force.
    pub fn begin_transaction(&mut self) -> InForce {
        self.ended_during_write.clear();
        lock(&self.in_force).clone()
    }

    /// Deletes the objects of dynamic sessions that ended, and says how many each had.
    ///
    /// Errors: as [`Self::commit`]; it is tried again at the next commit, and every few seconds.
    pub fn end_sessions(&mut self, sessions: &[u64]) -> Result<Vec<usize>, Error> {
        let removed = self.commit(|objects| {
            let each = sessions.iter();
            Ok(each
                .map(|session| objects.remove_session(*session))
                .collect::<Vec<_>>())
        });
        match &removed {
            // A writer that began before has none of them either.
            Ok((counts, _)) if counts.iter().all(|count| *count == 0) => {}
            Ok(_) => self.ended_during_write.extend(sessions),
            Err(_) => self.undeleted.extend(sessions),
        }
        removed.map(|(counts, _)| counts)
    }

    /// The data path.
    pub fn data_path(&mut self) -> &mut dyn DataPath {
        &mut *self.data_path
    }

    /// What is in force.
    pub fn in_force(&self) -> InForce {
        lock(&self.in_force).clone()
    }

    /// The flows, with the names of their filters.
    pub fn flows(&mut self) -> Result<Vec<v1::Flow>, Error> {
        let mut flows = self.data_path.flows()?;
        let objects = self.in_force().objects;
        for flow in &mut flows {
            if let Some(filter) = self.filter_names.find(&objects, flow.filter_id) {
                flow.filter.clone_from(&filter.identity.name);
            }
        }
        Ok(flows)
    }

    fn put_in_force(&mut self, before: &Objects, after: Objects) -> Result<Generation, Error> {
        if before.is_same(&after) {
            return Ok(lock(&self.in_force).generation);
        }
        if let Some(store) = &self.store {
            store.write(before, &after)?;
        }
        let generation = match self.data_path.commit(&after.after_boot()) {
            Ok(generation) => generation,
            Err(refused) => {
                self.restore_store(before, &after);
                return Err(refused);
            }
        };
        self.filter_names.clear();
        let mut in_force = lock(&self.in_force);
        in_force.objects = after;
        in_force.generation = generation;
        in_force.since = SystemTime::now();
        drop(in_force);
        self.log_commit(generation);
        Ok(generation)
    }

    /// The kernel refused what the store has already.
    fn restore_store(&self, before: &Objects, after: &Objects) {
        let Some(store) = &self.store else {
            return;
        };
        if let Err(error) = store.write(after, before) {
            let text = format!(
                "the kernel refused a policy, and the store cannot be put back: {error}; at the next \
                 start the store holds"
            );
            error!("{text}");
            lock(&self.in_force).notes.push(text);
        }
    }

    fn log_commit(&self, generation: Generation) {
        self.log.push(v1::Event {
            kind: v1::EventKind::PolicyCommitted.into(),
            message: format!("policy generation {generation} is in force"),
            generation,
            ..v1::Event::default()
        });
    }

    /// Passes the kernel's events on.
    fn forward_events(&mut self) {
        let events = match self.data_path.events() {
            Ok(events) => events,
            Err(error) => return warn!("cannot read events: {error}"),
        };
        if events.is_empty() {
            return;
        }
        let objects = self.in_force().objects;
        for mut event in events {
            if let Some(filter) = self.filter_names.find(&objects, event.filter_id) {
                event.filter.clone_from(&filter.identity.name);
                event.filter_key = sidetrack_api::key_bytes(filter.identity.key);
            }
            self.log.push(event);
        }
    }

    fn refresh(&mut self) {
        if !self.undeleted.is_empty()
            && let Err(error) = self.commit(|_| Ok(()))
        {
            warn!("objects of sessions that ended are still in force: {error}");
        }
        let objects = self.in_force().objects.after_boot();
        match self.data_path.refresh(&objects) {
            Ok(None) => {}
            Ok(Some(generation)) => {
                lock(&self.in_force).generation = generation;
                self.log_commit(generation);
            }
            Err(error) => warn!("cannot look after executables and cgroups: {error}"),
        }
    }

    /// Does what is asked until nobody can ask any more.
    fn run_loop(&mut self, tasks: &mut mpsc::Receiver<Task>, wake: &OwnedFd, every: Duration) {
        let mut next = Instant::now() + every;
        loop {
            loop {
                match tasks.try_recv() {
                    Ok(task) => task(self),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            self.forward_events();
            let now = Instant::now();
            if now >= next {
                self.refresh();
                next = now + every;
            }
            self.wait(wake, next.saturating_duration_since(now));
        }
    }

    /// Until there is a task, an event, or the time has come.
    fn wait(&self, wake: &OwnedFd, time: Duration) {
        let mut descriptors = vec![PollFd::new(wake, PollFlags::IN)];
        let events = self.data_path.event_fd();
        if let Some(events) = &events {
            descriptors.push(PollFd::new(events, PollFlags::IN));
        }
        let time = Timespec::try_from(time).ok();
        // Interrupted or not, the loop looks at everything.
        let _ = poll(&mut descriptors, time.as_ref());
        let _ = io::read(wake, &mut [0u8; 8]);
    }
}

fn lock(in_force: &Mutex<InForce>) -> std::sync::MutexGuard<'_, InForce> {
    in_force.lock().unwrap_or_else(PoisonError::into_inner)
}
