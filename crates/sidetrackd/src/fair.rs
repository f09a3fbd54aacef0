//! Fair queues. Root's entries go first; then one entry of each other user follows, round after
//! round, so that the user with the most entries does not delay the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// An entry of a [`FairQueue`].
pub trait Waiting {
    /// Returns whether its caller no longer waits. Then it is removed from the queue.
    fn is_abandoned(&self) -> bool;
}

/// A queue in which root's entries go first, and then one entry of each other user, round after
/// round.
#[derive(Debug)]
pub struct FairQueue<T> {
    root: VecDeque<T>,
    /// The entries of each other user. The first user is the next. No user is without entries.
    users: VecDeque<(u32, VecDeque<T>)>,
}

/// A lock that one caller at a time holds; the others wait in a [`FairQueue`]. Clones are the same
/// lock.
#[derive(Clone, Debug, Default)]
pub struct FairLock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    waiting: FairQueue<oneshot::Sender<FairLockGuard>>,
}

/// The lock, held. Dropping it passes the lock on.
#[derive(Debug)]
pub struct FairLockGuard(FairLock);

impl<T: Waiting> FairQueue<T> {
    /// Adds an entry of a user, and removes those of the same user that are abandoned.
    pub fn push(&mut self, uid: u32, entry: T) {
        let queue = self.queue_of(uid);
        queue.retain(|entry| !entry.is_abandoned());
        queue.push_back(entry);
    }

    /// Takes the next entry that is not abandoned.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let entry = self.pop_any()?;
            if !entry.is_abandoned() {
                return Some(entry);
            }
        }
    }

    fn pop_any(&mut self) -> Option<T> {
        if let Some(entry) = self.root.pop_front() {
            return Some(entry);
        }
        let (uid, mut queue) = self.users.pop_front()?;
        let entry = queue.pop_front();
        if !queue.is_empty() {
            self.users.push_back((uid, queue));
        }
        entry
    }

    fn queue_of(&mut self, uid: u32) -> &mut VecDeque<T> {
        if uid == 0 {
            return &mut self.root;
        }
        let known = self.users.iter().position(|(user, _)| *user == uid);
        let index = known.unwrap_or_else(|| {
            self.users.push_back((uid, VecDeque::new()));
            self.users.len() - 1
        });
        &mut self.users[index].1
    }
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            root: VecDeque::new(),
            users: VecDeque::new(),
        }
    }
}

impl<T> Waiting for oneshot::Sender<T> {
    fn is_abandoned(&self) -> bool {
        self.is_closed()
    }
}

impl FairLock {
    /// Waits for the lock. If the future is dropped, the caller no longer waits.
    pub async fn acquire(&self, uid: u32) -> FairLockGuard {
        let receiver = {
            let mut state = self.lock();
            if !std::mem::replace(&mut state.taken, true) {
                return FairLockGuard(self.clone());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push(uid, sender);
            receiver
        };
        // A sender whose receiver waits is not dropped without having sent.
        match receiver.await {
            Ok(guard) => guard,
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FairLockGuard {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            let next = state.waiting.pop();
            state.taken = next.is_some();
            next
        };
        if let Some(next) = next {
            // If its caller has gone in the meantime, this drops the lock again, and the next gets it.
            let _ = next.send(FairLockGuard(self.0.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number; negative ones are abandoned.
    impl Waiting for i32 {
        fn is_abandoned(&self) -> bool {
            *self < 0
        }
    }

    fn drain(queue: &mut FairQueue<i32>) -> Vec<i32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn root_goes_first_and_then_one_entry_of_each_user() {
        let mut queue = FairQueue::default();
        for (uid, entry) in [
            (7, 1),
            (7, 2),
            (7, 3),
            (8, 11),
            (0, 21),
            (8, 12),
            (9, 31),
            (0, 22),
        ] {
            queue.push(uid, entry);
        }
        assert_eq!(drain(&mut queue), [21, 22, 1, 11, 31, 2, 12, 3]);
        assert!(queue.users.is_empty());
        queue.push(7, 1);
        assert_eq!(drain(&mut queue), [1]);
    }

    #[test]
    fn abandoned_entries_are_skipped_and_do_not_pile_up() {
        let mut queue = FairQueue::default();
        for uid in [0, 7] {
            for _ in 0..1000 {
                queue.push(uid, -1);
            }
            queue.push(uid, 5);
        }
        assert_eq!((queue.root.len(), queue.users[0].1.len()), (1, 1));
        queue.push(7, -1);
        queue.push(8, -1);
        assert_eq!(drain(&mut queue), [5, 5]);
    }

    #[tokio::test]
    async fn one_caller_at_a_time_has_the_lock() {
        let lock = FairLock::default();
        let first = lock.acquire(7).await;
        let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
        for (uid, number) in [(7, 1), (7, 2), (8, 3), (0, 4)] {
            let (lock, sender) = (lock.clone(), sender.clone());
            tokio::spawn(async move {
                let guard = lock.acquire(uid).await;
                sender.send(number).unwrap();
                drop(guard);
            });
            tokio::task::yield_now().await;
        }
        // A caller that no longer waits does not get the lock, and does not keep it from the others.
        let mut gone = Box::pin(lock.acquire(9));
        assert!(futures_are_pending(&mut gone).await);
        drop(gone);
        assert!(done.try_recv().is_err());
        drop(first);
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(done.recv().await.unwrap());
        }
        assert_eq!(order, [4, 1, 3, 2]);
        lock.acquire(7).await;
        assert!(!lock.lock().taken);
    }

    async fn futures_are_pending(
        future: &mut (impl Future<Output = FairLockGuard> + Unpin),
    ) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
