//! The threads that have a queue of APCs, with their handles. When such a thread ends, its pending
//! operations are aborted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::abi::HANDLE;
use crate::apc::ApcQueue;
use crate::error::{WSAEFAULT, WinsockError, WinsockResult};
use crate::overlapped;

/// The queue of a thread, owned by the thread. When the thread ends, its pending operations are
/// aborted.
struct ThreadQueue(Arc<ApcQueue>);

/// The queues of all threads that have one, by the number of the thread.
static THREADS: RwLock<Option<HashMap<usize, Arc<ApcQueue>>>> = RwLock::new(None);

thread_local! {
    static THREAD_QUEUE: RefCell<Option<ThreadQueue>> = const { RefCell::new(None) };
}

/// The handle of the calling thread for a service provider. It is a multiple of four, and never
/// NULL. Error: WSA_NOT_ENOUGH_MEMORY.
pub(crate) fn own_handle() -> WinsockResult<HANDLE> {
    let number = own_queue()?.number();
    Ok(std::ptr::without_provenance_mut(number << 2))
}

/// The queue of the calling thread, created when it is first needed. Error: WSA_NOT_ENOUGH_MEMORY.
pub(crate) fn own_queue() -> WinsockResult<Arc<ApcQueue>> {
    THREAD_QUEUE.with_borrow_mut(|current| {
        if let Some(current) = current {
            return Ok(Arc::clone(&current.0));
        }
        let queue = Arc::new(ApcQueue::new()?);
        let mut threads = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        threads
            .get_or_insert_default()
            .insert(queue.number(), Arc::clone(&queue));
        *current = Some(ThreadQueue(Arc::clone(&queue)));
        Ok(queue)
    })
}

/// The queue of the thread with this handle. Error: WSAEFAULT if there is no such thread, or if it
/// has ended.
pub(crate) fn queue_of(thread: HANDLE) -> WinsockResult<Arc<ApcQueue>> {
    let threads = THREADS.read().unwrap_or_else(PoisonError::into_inner);
    let queue = threads
        .as_ref()
        .and_then(|threads| threads.get(&(thread.addr() >> 2)));
    queue.cloned().ok_or(WinsockError(WSAEFAULT))
}

impl Drop for ThreadQueue {
    fn drop(&mut self) {
        let mut threads = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        threads
            .as_mut()
            .and_then(|threads| threads.remove(&self.0.number()));
        drop(threads);
        overlapped::abort_thread(self.0.number());
    }
}
