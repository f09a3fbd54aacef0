//! Asynchronous procedure calls: completion routines and a provider's own, run by their thread in an alertable wait.

#[allow(unsafe_code)]
pub(crate) mod ffi;

pub(crate) use ffi::told_at;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::abi::{DWORD, DWORD_PTR, HANDLE, WSAOVERLAPPED};
use crate::error::{Fault, Reply, WSAEFAULT, WSAENOBUFS};
use crate::memory::Place;
use crate::{event, overlapped};

/// Calls that wait for a thread to be alertable.
const QUEUE_MAX: usize = 65_536;

/// One thread's calls.
pub(crate) struct Queue {
    number: usize,
    calls: Mutex<VecDeque<Apc>>,
    signal: OwnedFd,
}

/// One call.
pub(crate) enum Apc {
    Completion {
        routine: Routine,
        error: DWORD,
        bytes: DWORD,
        overlapped: Place<WSAOVERLAPPED>,
        socket: i32,
    },
    User {
        function: extern "C" fn(DWORD_PTR),
        context: DWORD_PTR,
    },
}

/// A completion routine.
pub(crate) type Routine = extern "C" fn(DWORD, DWORD, *mut WSAOVERLAPPED, DWORD);

/// What a thread has while it lives; its end cancels what it has asked for.
struct Own(Arc<Queue>);

static THREADS: RwLock<Option<HashMap<usize, Arc<Queue>>>> = RwLock::new(None);

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
    /// Sockets whose routines run now: they are not entered again.
    static RUNNING: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

/// The calling thread's queue, made when it is first wanted.
pub(crate) fn own_queue() -> Reply<Arc<Queue>> {
    OWN.with_borrow_mut(|own| {
        if let Some(own) = own {
            return Ok(Arc::clone(&own.0));
        }
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        let queue = Arc::new(Queue {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            calls: Mutex::default(),
            signal: event::signal()?,
        });
        let mut threads = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        threads
            .get_or_insert_default()
            .insert(queue.number, Arc::clone(&queue));
        *own = Some(Own(Arc::clone(&queue)));
        Ok(queue)
    })
}

/// The queue of a thread by its handle. Error: WSAEFAULT if there is no such thread, or no longer.
pub(crate) fn queue_of(thread: HANDLE) -> Reply<Arc<Queue>> {
    let threads = THREADS.read().unwrap_or_else(PoisonError::into_inner);
    let queue = threads
        .as_ref()
        .and_then(|threads| threads.get(&(thread.addr() >> 2)));
    queue.cloned().ok_or(Fault(WSAEFAULT))
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut threads = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        threads
            .as_mut()
            .and_then(|threads| threads.remove(&self.0.number));
        drop(threads);
        overlapped::abort_thread(self.0.number);
    }
}

impl Queue {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Names the thread for a provider. A multiple of four, never NULL.
    fn handle(&self) -> HANDLE {
        std::ptr::without_provenance_mut(self.number << 2)
    }

    /// Readable while there are calls.
    pub(crate) fn signal(&self) -> &OwnedFd {
        &self.signal
    }

    /// Error: WSAENOBUFS.
    pub(crate) fn has_room(&self) -> Reply<()> {
        match self.calls().len() < QUEUE_MAX {
            true => Ok(()),
            false => Err(Fault(WSAENOBUFS)),
        }
    }

    pub(crate) fn push(&self, call: Apc) {
        self.calls().push_back(call);
        event::raise(&self.signal);
    }

    /// Runs what is there, on the calling thread, whose queue this must be. Returns how many ran.
    pub(crate) fn run(&self) -> usize {
        event::lower(&self.signal);
        let mut ran = 0;
        let count = self.calls().len();
        for _ in 0..count {
            let Some(call) = self.next() else { break };
            call.run();
            ran += 1;
        }
        if ran > 0 && !self.calls().is_empty() {
            event::raise(&self.signal);
        }
        ran
    }

    /// The first whose socket has no routine running.
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
