//! Overlapped operations: an operation is pending until its answer exists, and completes exactly
//! once (docs/wfp.md, 5).
//!
//! The table [`PENDING`] decides who completes an operation: only the code that removes it from the
//! table. The table is locked for everything, including the queries to the kernel. So no other
//! thread can close the socket, and have its number given to another socket, during a query.

#[allow(unsafe_code)]
pub(crate) mod ffi;
#[allow(unsafe_code)]
mod sys;
mod worker;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::abi::{DWORD, HANDLE, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, WSAOVERLAPPED};
use crate::apc::{Apc, ApcQueue, Routine};
use crate::attempt::{Attempt, AttemptError, Interest};
use crate::error::{
    WSA_INVALID_PARAMETER, WSA_IO_INCOMPLETE, WSA_IO_PENDING, WSA_OPERATION_ABORTED, WSAEFAULT,
    WSAEINVAL, WSAENOBUFS, WinsockError, WinsockResult,
};
use crate::memory::{CallerPointer, MemoryRange};
use crate::{call, event, reading};

/// Largest number of pending operations in the process.
const PENDING_MAX: usize = 65_536;
/// Value of `Internal` while an operation is pending: STATUS_PENDING.
const STATUS_PENDING: usize = 0x103;

static PENDING: Mutex<Option<PendingTable>> = Mutex::new(None);
/// Notified after each completion.
static COMPLETED: Condvar = Condvar::new();
/// Number of completions for which the OVERLAPPED or the event no longer existed.
static MISUSES: AtomicU32 = AtomicU32::new(0);

/// The pending operations.
#[derive(Default)]
struct PendingTable {
    /// By the address of the OVERLAPPED.
    operations: HashMap<usize, PendingOperation>,
    /// Socket and address of the OVERLAPPED.
    by_socket: BTreeSet<(i32, usize)>,
}

/// A pending operation with its work.
struct PendingOperation {
    operation: Operation,
    work: Box<dyn Attempt>,
    /// The event of the socket after which the work is attempted again.
    interest: Interest,
}

/// An overlapped operation: where its end is reported, and what aborts it.
pub(crate) struct Operation {
    socket: i32,
    overlapped: CallerPointer<WSAOVERLAPPED>,
    notification: Notification,
    /// Number of the thread whose end aborts the operation.
    thread: usize,
}

/// How the end of an operation is notified.
enum Notification {
    /// Sets an event, given by its key; 0 means none.
    Event(usize),
    /// Queues a completion routine to a thread.
    Routine(Routine, Arc<ApcQueue>),
}

impl Operation {
    /// Creates an operation; `queue` returns the queue of the thread to which it belongs. Resets
    /// the event. Errors: WSAEFAULT, WSA_INVALID_HANDLE (the event), WSAENOBUFS, and that of
    /// `queue`.
    pub(crate) fn new(
        socket: i32,
        overlapped: *mut WSAOVERLAPPED,
        routine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
        queue: impl FnOnce() -> WinsockResult<Arc<ApcQueue>>,
    ) -> WinsockResult<Self> {
        if !overlapped.is_aligned() {
            return Err(WinsockError(WSAEFAULT));
        }
        let overlapped = CallerPointer::new(overlapped).ok_or(WinsockError(WSAEFAULT))?;
        let queue = queue()?;
        let thread = queue.number();
        let notification = match routine {
            Some(routine) => {
                let code = MemoryRange::of(routine as *const u8, 1);
                if !code.is_readable() {
                    return Err(WinsockError(WSAEFAULT));
                }
                queue.has_room()?;
                Notification::Routine(routine, queue)
            }
            None => Notification::Event(reset_event(overlapped.load().hEvent)?),
        };
        Ok(Self {
            socket,
            overlapped,
            notification,
            thread,
        })
    }

    /// Attempts the work of the operation. The operation becomes pending if there is no answer yet;
    /// the error then is WSA_IO_PENDING. `returned` is where the caller wants the number of bytes.
    pub(crate) fn start(
        self,
        work: impl Attempt + 'static,
        returned: Option<CallerPointer<DWORD>>,
    ) -> WinsockResult<()> {
        let mut guard = lock();
        let pending = guard.get_or_insert_default();
        if pending.operations.contains_key(&self.overlapped.address()) {
            return Err(WinsockError(WSAEINVAL)); // another pending operation uses the OVERLAPPED
        }
        let store_count = |count| {
            if let Some(returned) = returned {
                returned.store(count);
            }
        };
        match work.attempt() {
            Ok(bytes) => {
                store_count(bytes);
                self.complete(Ok(bytes));
                Ok(())
            }
            Err(AttemptError::TooSmall(needed)) => {
                let (error, count) = reading::too_small(needed);
                store_count(count);
                Err(WinsockError(error))
            }
            Err(AttemptError::Final(error)) => {
                store_count(0);
                Err(error)
            }
            Err(AttemptError::NotYet(interest)) => {
                pending.add(PendingOperation {
                    operation: self,
                    work: Box::new(work),
                    interest,
                })?;
                Err(WinsockError(WSA_IO_PENDING))
            }
        }
    }

    /// Completes the operation. The caller holds the lock and has removed the operation from the
    /// table.
    fn complete(self, outcome: Result<DWORD, INT>) {
        let (error, bytes) = match outcome {
            Ok(bytes) => (0, bytes),
            Err(error) => (error as DWORD, 0),
        };
        if !self.overlapped.is_still_writable() {
            MISUSES.fetch_add(1, Ordering::Relaxed); // the program freed it while it was pending
            return;
        }
        sys::publish(self.overlapped, error as usize, bytes as usize);
        match self.notification {
            Notification::Event(0) => {}
            Notification::Event(event) => {
                if event::set(std::ptr::without_provenance_mut(event)).is_err() {
                    MISUSES.fetch_add(1, Ordering::Relaxed);
                }
            }
            Notification::Routine(routine, queue) => queue.push(Apc::Completion {
                routine,
                error,
                bytes,
                overlapped: self.overlapped,
                socket: self.socket,
            }),
        }
        COMPLETED.notify_all();
    }
}

/// Checks and resets the event of an OVERLAPPED. Returns its key; 0 if there is none.
fn reset_event(event: HANDLE) -> WinsockResult<usize> {
    if event.addr() & !3 != 0 {
        event::reset(event)?;
    }
    Ok(event.addr() & !3)
}

impl PendingTable {
    /// Adds an operation and watches its socket. Error: WSAENOBUFS.
    fn add(&mut self, added: PendingOperation) -> WinsockResult<()> {
        if self.operations.len() >= PENDING_MAX {
            return Err(WinsockError(WSAENOBUFS));
        }
        let Operation {
            socket, overlapped, ..
        } = added.operation;
        let address = overlapped.address();
        sys::publish(overlapped, STATUS_PENDING, 0);
        self.operations.insert(address, added);
        self.by_socket.insert((socket, address));
        worker::watch(socket, self.interests(socket)).inspect_err(|_| {
            self.take(address);
        })
    }

    /// Removes an operation, which gives the caller the right to complete it.
    fn take(&mut self, address: usize) -> Option<Operation> {
        let operation = self.operations.remove(&address)?.operation;
        self.by_socket.remove(&(operation.socket, address));
        if self.of_socket(operation.socket).next().is_none() {
            worker::unwatch(operation.socket);
        }
        Some(operation)
    }

    fn of_socket(&self, socket: i32) -> impl Iterator<Item = usize> {
        let all = (socket, 0)..=(socket, usize::MAX);
        self.by_socket.range(all).map(|&(_, address)| address)
    }

    fn interests(&self, socket: i32) -> Vec<Interest> {
        self.of_socket(socket)
            .filter_map(|address| self.operations.get(&address))
            .map(|pending| pending.interest)
            .collect()
    }

    /// Attempts the operations of a socket again, after an event of the socket, and completes those
    /// that have ended.
    fn retry(&mut self, socket: i32) {
        let addresses: Vec<usize> = self.of_socket(socket).collect();
        for address in addresses {
            let Some(pending) = self.operations.get_mut(&address) else {
                continue;
            };
            let outcome = match pending.work.attempt() {
                Err(AttemptError::NotYet(interest)) => {
                    pending.interest = interest;
                    continue;
                }
                Ok(bytes) => Ok(bytes),
                Err(AttemptError::Final(WinsockError(error))) => Err(error),
                Err(AttemptError::TooSmall(needed)) => Err(reading::too_small(needed).0),
            };
            if let Some(operation) = self.take(address) {
                operation.complete(outcome);
            }
        }
        let interests = self.interests(socket);
        if !interests.is_empty() {
            let _ = worker::watch(socket, interests); // the socket has been watched before
        }
    }

    /// Aborts the operations that `selects` chooses. Returns their number.
    fn abort(&mut self, selects: impl Fn(&Operation) -> bool) -> usize {
        let chosen = self
            .operations
            .iter()
            .filter(|(_, pending)| selects(&pending.operation));
        let addresses: Vec<usize> = chosen.map(|(address, _)| *address).collect();
        for address in &addresses {
            self.abort_one(*address);
        }
        addresses.len()
    }

    fn abort_socket(&mut self, socket: i32) -> usize {
        let addresses: Vec<usize> = self.of_socket(socket).collect();
        for address in &addresses {
            self.abort_one(*address);
        }
        addresses.len()
    }

    fn abort_one(&mut self, address: usize) {
        if let Some(operation) = self.take(address) {
            operation.complete(Err(WSA_OPERATION_ABORTED));
        }
    }
}

/// Aborts the pending operations of a socket: they complete with WSA_OPERATION_ABORTED. Returns
/// their number.
pub(crate) fn abort_socket(socket: i32) -> usize {
    (lock().as_mut()).map_or(0, |pending| pending.abort_socket(socket))
}

/// Aborts the pending operations of a socket and closes it, before another operation can become
/// pending on it.
pub(crate) fn close<T>(socket: i32, close: impl FnOnce() -> T) -> T {
    let mut guard = lock();
    if let Some(pending) = guard.as_mut() {
        pending.abort_socket(socket);
    }
    close()
}

/// Aborts the pending operations of a thread that ends.
pub(crate) fn abort_thread(number: usize) {
    let _ = call::guard_always(|| {
        abort(|operation| operation.thread == number);
        Ok(()) // guarded, since a panic at the end of a thread would end the process
    });
}

/// Aborts all pending operations.
pub(crate) fn abort_all() {
    abort(|_| true);
}

fn abort(selects: impl Fn(&Operation) -> bool) -> usize {
    lock().as_mut().map_or(0, |pending| pending.abort(selects))
}

/// The result of an operation: its number of bytes. Errors: the operation's own; WSA_IO_INCOMPLETE
/// if it is pending and `wait` is false; WSA_INVALID_PARAMETER for waiting for an operation with a
/// completion routine.
fn result(overlapped: CallerPointer<WSAOVERLAPPED>, wait: bool) -> WinsockResult<DWORD> {
    let mut guard = lock();
    while let Some(PendingOperation { operation, .. }) =
        (guard.as_ref()).and_then(|pending| pending.operations.get(&overlapped.address()))
    {
        if !wait {
            return Err(WinsockError(WSA_IO_INCOMPLETE));
        }
        if let Notification::Routine(..) = operation.notification {
            return Err(WinsockError(WSA_INVALID_PARAMETER));
        }
        guard = COMPLETED
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner);
    }
    let status = overlapped.load();
    match status.Internal {
        0 => Ok(status.InternalHigh as DWORD),
        STATUS_PENDING => Err(WinsockError(WSA_IO_INCOMPLETE)), // the operation was never started
        error => Err(WinsockError(error as INT)),
    }
}

fn lock() -> MutexGuard<'static, Option<PendingTable>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}
