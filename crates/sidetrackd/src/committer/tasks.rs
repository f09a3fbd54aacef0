//! The queue of tasks for the committer's thread: a fair one, in which root's tasks go first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::Committer;
use crate::Error;
use crate::fair::{FairQueue, Waiting};

/// The senders' side of the queue. A task has a caller that waits for it, so the number of tasks is
/// that of the calls in progress and of the sessions that end.
#[derive(Clone)]
pub(super) struct TaskSender(Arc<Tasks>);

/// The committer's side of the queue.
pub(super) struct TaskReceiver(Arc<Tasks>);

struct Tasks {
    queue: Mutex<FairQueue<Box<dyn Task>>>,
    /// Has no permits, and is closed when the receiver is dropped, while the queue is locked.
    ended: Semaphore,
}

/// What the committer's thread does for a caller.
pub(super) trait Task: Waiting + Send {
    fn run(self: Box<Self>, committer: &mut Committer);
}

/// A task with the caller that waits for its result.
struct CalledTask<F, R> {
    task: F,
    caller: oneshot::Sender<R>,
}

/// Creates a queue.
pub(super) fn queue() -> (TaskSender, TaskReceiver) {
    let tasks = Arc::new(Tasks {
        queue: Mutex::default(),
        ended: Semaphore::new(0),
    });
    (TaskSender(Arc::clone(&tasks)), TaskReceiver(tasks))
}

impl TaskSender {
    /// Adds a task of a user. The receiver returns its result. Errors: [`Error::Stopping`].
    pub(super) fn send<R: Send + 'static>(
        &self,
        uid: u32,
        task: impl FnOnce(&mut Committer) -> R + Send + 'static,
    ) -> Result<oneshot::Receiver<R>, Error> {
        let (caller, result) = oneshot::channel();
        let mut queue = self.0.lock();
        if self.0.ended.is_closed() {
            return Err(Error::Stopping);
        }
        queue.push(uid, Box::new(CalledTask { task, caller }));
        Ok(result)
    }

    /// Waits until the receiver has been dropped.
    pub(super) async fn closed(&self) {
        // It fails when the semaphore is closed, and never succeeds.
        let _ = self.0.ended.acquire().await;
    }
}

impl TaskReceiver {
    /// Takes the next task.
    pub(super) fn next(&self) -> Option<Box<dyn Task>> {
        self.0.lock().pop()
    }

    /// Returns whether all senders have been dropped.
    pub(super) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Drop for TaskReceiver {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        self.0.ended.close();
        // Their callers get an error.
        let tasks = std::mem::take(&mut *queue);
        drop(queue);
        drop(tasks);
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, FairQueue<Box<dyn Task>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F, R> Task for CalledTask<F, R>
where
    F: FnOnce(&mut Committer) -> R + Send,
    R: Send,
{
    fn run(self: Box<Self>, committer: &mut Committer) {
        let result = (self.task)(committer);
        // The caller may no longer wait.
        let _ = self.caller.send(result);
    }
}

impl<F, R> Waiting for CalledTask<F, R> {
    fn is_abandoned(&self) -> bool {
        self.caller.is_closed()
    }
}

impl Waiting for Box<dyn Task> {
    fn is_abandoned(&self) -> bool {
        (**self).is_abandoned()
    }
}
