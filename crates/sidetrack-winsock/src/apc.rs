//! Asynchronous procedure calls (APCs): completion routines, and functions that a service provider
//! queues. A thread runs its APCs in an alertable wait (docs/wfp.md, 5.4 and 5.5).

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::{DWORD, DWORD_PTR, WSAOVERLAPPED};
use crate::error::{WSAENOBUFS, WinsockError, WinsockResult};
use crate::eventfd;
use crate::memory::CallerPointer;

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

thread_local! {
    /// The sockets whose completion routines are running on this thread. They are not entered
    /// again.
    static RUNNING: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

impl ApcQueue {
    /// The queue of a thread that has none yet. Error: WSA_NOT_ENOUGH_MEMORY.
    pub(crate) fn new() -> WinsockResult<Self> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        Ok(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            calls: Mutex::default(),
            eventfd: eventfd::create()?,
        })
    }

    /// Number of the thread in this process.
    pub(crate) fn number(&self) -> usize {
        self.number
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
        eventfd::set(&self.eventfd);
    }

    /// Runs the APCs of the calling thread, to which this queue must belong. Returns how many ran.
    pub(crate) fn run(&self) -> usize {
        eventfd::clear(&self.eventfd);
        let mut ran = 0;
        let count = self.calls().len();
        for _ in 0..count {
            let Some(call) = self.next() else { break };
            call.run();
            ran += 1;
        }
        if ran > 0 && !self.calls().is_empty() {
            eventfd::set(&self.eventfd);
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

    fn calls(&self) -> MutexGuard<'_, VecDeque<Apc>> {
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
