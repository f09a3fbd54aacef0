//! Asynchronous procedure calls (APCs): completion routines, and functions that a service provider
//! queues. A thread runs its APCs in an alertable wait (docs/wfp.md, 5.4 and 5.5).

#[allow(unsafe_code)]
pub(crate) mod ffi;

pub(crate) use ffi::with_errno_at;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::abi::{DWORD, DWORD_PTR, HANDLE, WSAOVERLAPPED};
use crate::error::{WSAEFAULT, WSAENOBUFS, WinsockError, WinsockResult};
use crate::memory::CallerPointer;
use crate::{event, overlapped};

/// Largest number of APCs in the queue of one thread.
const QUEUE_MAX: usize = 65_536;

/// The APCs of one thread.
pub(crate) struct ApcQueue {
    /// Number of the thread in this process, counted from 1 and never used again.
    number: usize,
    calls: Mutex<VecDeque<Apc>>,
    /// Readable while there are APCs.
    eventfd: OwnedFd,
}

/// One APC.
pub(crate) enum Apc {
    /// A completion routine with its arguments, and the socket of the operation.
    Completion {
        routine: Routine,
        error: DWORD,
        bytes: DWORD,
        overlapped: CallerPointer<WSAOVERLAPPED>,
        socket: i32,
    },
    /// A function of WPUQueueApc with its argument.
    User {
        function: extern "C" fn(DWORD_PTR),
        context: DWORD_PTR,
    },
}

/// A completion routine, with the arguments of `LPWSAOVERLAPPED_COMPLETION_ROUTINE`.
pub(crate) type Routine = extern "C" fn(DWORD, DWORD, *mut WSAOVERLAPPED, DWORD);

/// The queue of a thread, owned by the thread. When the thread ends, its pending operations are
/// aborted.
struct ThreadQueue(Arc<ApcQueue>);

/// The queues of all threads that have one, by number.
static THREADS: RwLock<Option<HashMap<usize, Arc<ApcQueue>>>> = RwLock::new(None);

thread_local! {
    static THREAD_QUEUE: RefCell<Option<ThreadQueue>> = const { RefCell::new(None) };
    /// The sockets whose completion routines are running on this thread. They are not entered
    /// again.
    static RUNNING: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

/// The queue of the calling thread, created when it is first needed. Error: WSA_NOT_ENOUGH_MEMORY.
pub(crate) fn own_queue() -> WinsockResult<Arc<ApcQueue>> {
    THREAD_QUEUE.with_borrow_mut(|current| {
        if let Some(current) = current {
            return Ok(Arc::clone(&current.0));
        }
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        let queue = Arc::new(ApcQueue {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            calls: Mutex::default(),
            eventfd: event::new_eventfd()?,
        });
        let mut threads = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        threads
            .get_or_insert_default()
            .insert(queue.number, Arc::clone(&queue));
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
            .and_then(|threads| threads.remove(&self.0.number));
        drop(threads);
        overlapped::abort_thread(self.0.number);
    }
}

impl ApcQueue {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The handle of the thread for a service provider. It is a multiple of four, and never NULL.
    fn handle(&self) -> HANDLE {
        std::ptr::without_provenance_mut(self.number << 2)
    }

    /// An eventfd that is readable while there are APCs.
    pub(crate) fn eventfd(&self) -> &OwnedFd {
        &self.eventfd
    }

    /// Checks that another APC fits. Error: WSAENOBUFS.
    pub(crate) fn has_room(&self) -> WinsockResult<()> {
        match self.calls().len() < QUEUE_MAX {
            true => Ok(()),
            false => Err(WinsockError(WSAENOBUFS)),
        }
    }

    pub(crate) fn push(&self, call: Apc) {
        self.calls().push_back(call);
        event::set_eventfd(&self.eventfd);
    }

    /// Runs the APCs of the calling thread, to which this queue must belong. Returns how many ran.
    pub(crate) fn run(&self) -> usize {
        event::clear_eventfd(&self.eventfd);
        let mut ran = 0;
        let count = self.calls().len();
        for _ in 0..count {
            let Some(call) = self.next() else { break };
            call.run();
            ran += 1;
        }
        if ran > 0 && !self.calls().is_empty() {
            event::set_eventfd(&self.eventfd);
        }
        ran
    }

    /// Removes the first APC whose socket has no routine running.
    fn next(&self) -> Option<Apc> {
        let mut calls = self.calls();
        let at = calls.iter().position(|call| match call {
            Apc::User { .. } => true,
            Apc::Completion { socket, .. } => {
                !RUNNING.with_borrow(|running| running.contains(socket))
            }
        })?;
        calls.remove(at)
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, VecDeque<Apc>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Apc {
    fn run(self) {
        match self {
            Self::User { function, context } => function(context),
            Self::Completion {
                routine,
                error,
                bytes,
                overlapped,
                socket,
            } => {
                RUNNING.with_borrow_mut(|running| running.push(socket));
                routine(error, bytes, overlapped.pointer(), 0);
                RUNNING.with_borrow_mut(Vec::pop);
            }
        }
    }
}
