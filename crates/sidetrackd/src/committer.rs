//! The committer: the one thread that owns store and data path, and puts policy in force.
//!
//! Other threads send it tasks. It does root's tasks first, and those of the other users in a fair
//! order. A task that has begun is completed even if its caller no longer waits for the result; so a
//! commit is never half done. A task whose caller has gone before is left out.

mod filter_names;
mod start;
mod tasks;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io;
use sidetrack_policy::{self as policy, Filter, Objects};
use tracing::{error, warn};

use self::filter_names::FilterNames;
pub use self::start::{OnMismatch, Start};
use self::tasks::{TaskReceiver, TaskSender};
use crate::Error;
use crate::data_path::{DataPath, Flow, Generation, NewEvents, PinnedPolicy, PolicySource};
use crate::event::{EventKind, EventLog, FilterName};
use crate::store::Store;

/// The policy in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// All objects, boot-time filters included.
    pub objects: Objects,
    /// The generation of the policy.
    pub generation: Generation,
    /// The time at which these objects were put in force, or the daemon's start. A refresh does not
    /// change it.
    pub since: SystemTime,
    /// What an operator should know, one sentence each: what was not loaded from the store or was
    /// corrected at the start, and whether the store could not be restored after a failed commit.
    pub notes: Vec<String>,
    /// The kernel's policy, if it was adopted, and not replaced since: then the objects of the policy in
    /// force are unknown, and `objects` has none.
    pub adopted: Option<PinnedPolicy>,
}

/// A handle with which other threads reach the committer. The committer ends after the last clone
/// is dropped.
#[derive(Clone)]
pub struct Handle {
    // Fields are dropped in this order: `wake` wakes the thread after its queue is closed.
    tasks: TaskSender,
    wake: Arc<Wake>,
    in_force: Arc<Mutex<InForce>>,
}

/// An eventfd that wakes the committer's thread on each call of [`Wake::notify`], and when the last
/// handle is dropped.
struct Wake(Arc<OwnedFd>);

/// The state of the committer's thread. Tasks get it as their argument.
pub struct Committer {
    data_path: Box<dyn DataPath>,
    store: Option<Store>,
    in_force: Arc<Mutex<InForce>>,
    log: EventLog,
    filter_names: FilterNames,
    /// Dynamic sessions that have ended since the open writing transaction began. That
    /// transaction's copy of the objects may still have theirs, so its commit removes them.
    ended_during_write: Vec<u64>,
    /// Dynamic sessions that have ended, but whose objects could not be deleted. Each commit and
    /// each refresh tries again.
    undeleted: Vec<u64>,
}

impl Handle {
    /// Returns the policy in force.
    pub fn in_force(&self) -> InForce {
        lock(&self.in_force).clone()
    }

    /// Waits until the committer has ended. While handles exist, it ends only if it panicked.
    pub async fn ended(&self) {
        self.tasks.closed().await;
    }

    /// Runs a task of a user in the committer's thread, and returns its result.
    ///
    /// Errors: [`Error::Stopping`].
    pub async fn run<R: Send + 'static>(
        &self,
        uid: u32,
        task: impl FnOnce(&mut Committer) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let result = self.tasks.send(uid, task)?;
        self.wake.notify();
        result.await.map_err(|_| Error::Stopping)
    }
}

impl Wake {
    fn new() -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let fd = fd.map_err(|error| Error::Committer(error.into()))?;
        Ok(Self(Arc::new(fd)))
    }

    fn notify(&self) {
        // It fails only if the counter is at its maximum; then the thread wakes anyway.
        let _ = io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.notify();
    }
}

impl Committer {
    /// Applies a change to the objects in force and commits the result: first to the store, then to
    /// the kernel. If either fails, both are as before.
    ///
    /// Returns the change's result and the generation in force.
    ///
    /// Errors: the change's, [`Error::Store`], [`Error::DataPath`].
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

    /// Commits the objects of a writing transaction, without those of sessions that have ended
    /// since it began.
    ///
    /// Errors: as for [`Self::commit`].
    pub fn commit_transaction(&mut self, mut objects: Objects) -> Result<Generation, Error> {
        for session in self.ended_during_write.iter().chain(&self.undeleted) {
            objects.remove_session(*session);
        }
        let before = lock(&self.in_force).objects.clone();
        let generation = self.put_in_force(&before, objects)?;
        self.undeleted.clear();
        Ok(generation)
    }

    /// Begins a writing transaction, and returns the policy in force, on which it is based.
    pub fn begin_transaction(&mut self) -> InForce {
        self.ended_during_write.clear();
        lock(&self.in_force).clone()
    }

    /// Deletes the objects of dynamic sessions that have ended, in one commit. Returns how many
    /// objects each session had.
    ///
    /// Errors: as for [`Self::commit`]. Then the next commit, and each refresh, tries again.
    pub fn end_sessions(&mut self, sessions: &[u64]) -> Result<Vec<usize>, Error> {
        let removed = self.commit(|objects| {
            let each = sessions.iter();
            Ok(each
                .map(|session| objects.remove_session(*session))
                .collect::<Vec<_>>())
        });
        match &removed {
            // These sessions have no objects in force, so the open writing transaction has none
            // either.
            Ok((counts, _)) if counts.iter().all(|count| *count == 0) => {}
            Ok(_) => self.ended_during_write.extend(sessions),
            Err(_) => self.undeleted.extend(sessions),
        }
        removed.map(|(counts, _)| counts)
    }

    /// Returns the data path.
    pub fn data_path(&mut self) -> &mut dyn DataPath {
        &mut *self.data_path
    }

    /// Returns the policy in force.
    pub fn in_force(&self) -> InForce {
        lock(&self.in_force).clone()
    }

    /// Returns the flows of these ids that still exist, each with the name of its filter if that is
    /// in force.
    ///
    /// Errors: [`Error::DataPath`].
    pub fn flows(&mut self, ids: &[u64]) -> Result<Vec<(Flow, Option<String>)>, Error> {
        let objects = self.in_force().objects;
        let mut flows = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(flow) = self.data_path.flow(*id)? else {
                continue;
            };
            let filter = self.filter_names.find(&objects, flow.filter_id);
            let name = filter.map(|filter| filter.identity.name.clone());
            flows.push((flow, name));
        }
        Ok(flows)
    }

    fn put_in_force(&mut self, before: &Objects, after: Objects) -> Result<Generation, Error> {
        if before.is_same(&after) {
            return Ok(lock(&self.in_force).generation);
        }
        self.check_adopted(&after)?;
        let source = match &mut self.store {
            Some(store) => store.write(&after)?,
            None => PolicySource::default(),
        };
        let generation = match self.data_path.commit(&after.after_boot(), source) {
            Ok(generation) => generation,
            Err(error) => {
                self.restore_store(before);
                return Err(error.into());
            }
        };
        self.filter_names.clear();
        let mut in_force = lock(&self.in_force);
        if let Some(replaced) = in_force.adopted.take() {
            let note = start::note_adopted(replaced);
            in_force.notes.retain(|other| *other != note);
            warn!(
                "this policy has replaced the kernel's, generation {} with {} filters, which had been adopted",
                replaced.generation, replaced.filters
            );
        }
        in_force.objects = after;
        in_force.generation = generation;
        in_force.since = SystemTime::now();
        drop(in_force);
        self.log_commit(generation);
        Ok(generation)
    }

    /// Checks that these objects may replace an adopted policy. Its filters are not among them, so only a
    /// whole policy of root's may: filters that `ApplyPolicy` has added, and no others.
    ///
    /// Errors: [`Error::Adopted`].
    fn check_adopted(&self, after: &Objects) -> Result<(), Error> {
        let Some(adopted) = lock(&self.in_force).adopted else {
            return Ok(());
        };
        let mut filters = after.entries::<Filter>();
        let is_whole = filters.len() > 0
            && filters.all(|entry| entry.author.is_root() && entry.author.owner.is_some());
        match is_whole {
            true => Ok(()),
            false => Err(Error::Adopted(adopted)),
        }
    }

    /// Puts the previous objects back into the store, after the kernel has refused the new ones.
    fn restore_store(&mut self, before: &Objects) {
        let Some(store) = &mut self.store else {
            return;
        };
        if let Err(error) = store.write(before) {
            let text = format!(
                "the kernel refused a policy, and the previous policy cannot be written back to the store: \
                 {}; the next start of sidetrackd puts the refused policy in force",
                Error::from(error).with_sources()
            );
            error!("{text}");
            lock(&self.in_force).notes.push(text);
        }
    }

    fn log_commit(&self, generation: Generation) {
        let message = format!("policy generation {generation} is in force");
        self.log
            .push(EventKind::PolicyCommitted(generation), message);
    }

    /// Moves the kernel's events to the event log, with their filters.
    fn forward_events(&mut self) {
        let NewEvents { events, lost } = match self.data_path.events() {
            Ok(new) => new,
            Err(error) => {
                let error = Error::from(error).with_sources();
                return warn!("cannot read the kernel's events: {error}");
            }
        };
        if events.is_empty() {
            return self.log.push_lost(lost);
        }
        let objects = self.in_force().objects;
        for event in events {
            let filter = self.filter_names.find(&objects, event.event.filter_id);
            let name = filter.map(|filter| FilterName {
                key: filter.identity.key,
                name: filter.identity.name.clone(),
            });
            self.log.push_connection(event, name);
        }
        self.log.push_lost(lost);
    }

    /// Does the periodic work: deletes what ended sessions have left, and lets the data path check
    /// the policy's paths.
    fn refresh(&mut self) {
        if !self.undeleted.is_empty()
            && let Err(error) = self.commit(|_| Ok(()))
        {
            warn!(
                "cannot delete the objects of sessions that have ended: {}; they are still in force",
                error.with_sources()
            );
        }
        let objects = self.in_force().objects.after_boot();
        match self.data_path.refresh(&objects) {
            Ok(None) => {}
            Ok(Some(generation)) => {
                lock(&self.in_force).generation = generation;
                self.log_commit(generation);
            }
            Err(error) => {
                let error = Error::from(error).with_sources();
                warn!("cannot check the executables and cgroups that the policy names: {error}");
            }
        }
    }

    /// Runs tasks, forwards events and refreshes at each interval, until all handles are dropped.
    fn run_loop(&mut self, tasks: &TaskReceiver, wake: &OwnedFd, interval: Duration) {
        let mut next = Instant::now() + interval;
        loop {
            let closed = tasks.is_closed();
            let task = tasks.next();
            let idle = task.is_none();
            match task {
                Some(task) => task.run(self),
                None if closed => return,
                None => {}
            }
            // After each task, so that many tasks do not make the kernel lose events.
            self.forward_events();
            let now = Instant::now();
            if now >= next {
                self.refresh();
                next = now + interval;
            }
            if idle {
                self.wait(wake, next.saturating_duration_since(now));
            }
        }
    }

    /// Waits for a task or an event, for at most `time`.
    fn wait(&self, wake: &OwnedFd, time: Duration) {
        let mut descriptors = vec![PollFd::new(wake, PollFlags::IN)];
        let events = self.data_path.event_fd();
        if let Some(events) = &events {
            descriptors.push(PollFd::new(events, PollFlags::IN));
        }
        let time = Timespec::try_from(time).ok();
        // The result does not matter: the loop checks for tasks, events and the time in any case.
        let _ = poll(&mut descriptors, time.as_ref());
        let _ = io::read(wake, &mut [0u8; 8]);
    }
}

fn lock(in_force: &Mutex<InForce>) -> std::sync::MutexGuard<'_, InForce> {
    in_force.lock().unwrap_or_else(PoisonError::into_inner)
}
