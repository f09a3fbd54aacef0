//! Overlapped operations: pending until their answer exists, completed exactly once (spec 5).
//!
//! [`PENDING`] decides: whoever takes an operation out of it completes it, and nobody else can. All is done under
//! its lock, the question to the kernel too, so a socket cannot be closed and its number given to another meanwhile.

#[allow(unsafe_code)]
pub(crate) mod ffi;
#[allow(unsafe_code)]
mod sys;
mod worker;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::abi::{DWORD, HANDLE, INT, LPWSAOVERLAPPED_COMPLETION_ROUTINE, WSAOVERLAPPED};
use crate::apc::{self, Apc, Queue, Routine};
use crate::error::{
    Fault, Reply, WSA_INVALID_PARAMETER, WSA_IO_INCOMPLETE, WSA_IO_PENDING, WSA_OPERATION_ABORTED,
    WSAEFAULT, WSAEINVAL, WSAENOBUFS,
};
use crate::memory::{Place, Span};
use crate::message::Receive;
use crate::question::{self, Interest, Question, Refusal};
use crate::{call, event};

/// Operations pending in the process.
const PENDING_MAX: usize = 65_536;
/// `Internal` while pending: STATUS_PENDING.
const STATUS_PENDING: usize = 0x103;

static PENDING: Mutex<Option<Pending>> = Mutex::new(None);
static DONE: Condvar = Condvar::new();
/// Completions that found their OVERLAPPED or their event gone.
static MISUSES: AtomicU32 = AtomicU32::new(0);

/// What is pending, by the address of its OVERLAPPED, and by socket.
#[derive(Default)]
struct Pending {
    operations: HashMap<usize, Operation>,
    by_socket: BTreeSet<(i32, usize)>,
}

/// One operation.
pub(crate) struct Operation {
    socket: i32,
    request: Request,
    place: Place<WSAOVERLAPPED>,
    notify: Notify,
    /// The thread whose end aborts it.
    issuer: usize,
    interest: Interest,
}

/// What is wanted.
#[derive(Clone, Copy)]
pub(crate) enum Request {
    Query(Question),
    Receive(Receive),
    /// What is answered at once.
    Done(DWORD),
}

enum Notify {
    /// An event, or NULL.
    Event(usize),
    Routine(Routine, Arc<Queue>),
}

impl Request {
    fn attempt(&self) -> Result<DWORD, Refusal> {
        match self {
            Self::Query(question) => question.ask(),
            Self::Receive(receive) => receive.attempt(),
            Self::Done(bytes) => Ok(*bytes),
        }
    }
}

impl Operation {
    /// With what the caller gave. Errors: WSAEFAULT, WSA_INVALID_HANDLE (the event), WSAENOBUFS.
    pub(crate) fn new(
        socket: i32,
        request: Request,
        overlapped: *mut WSAOVERLAPPED,
        routine: LPWSAOVERLAPPED_COMPLETION_ROUTINE,
        thread: Option<Arc<Queue>>,
    ) -> Reply<Self> {
        if !overlapped.is_aligned() {
            return Err(Fault(WSAEFAULT));
        }
        let place = Place::at(overlapped).ok_or(Fault(WSAEFAULT))?;
        let queue = match thread {
            Some(queue) => queue,
            None => apc::own_queue()?,
        };
        let issuer = queue.number();
        let notify = match routine {
            Some(routine) => {
                let code = Span::of(routine as *const u8, 1);
                if !code.is_readable() {
                    return Err(Fault(WSAEFAULT));
                }
                queue.has_room()?;
                Notify::Routine(routine, queue)
            }
            None => Notify::Event(checked_event(place.load().hEvent)?),
        };
        let interest = Interest::Readable;
        Ok(Self {
            socket,
            request,
            place,
            notify,
            issuer,
            interest,
        })
    }

    /// What was wanted has been done: so many bytes.
    pub(crate) fn done(&mut self, bytes: DWORD) {
        self.request = Request::Done(bytes);
    }

    /// Asks at once; what has no answer yet is pending. `returned` is where the caller wants the count.
    pub(crate) fn start(mut self, returned: Option<Place<DWORD>>) -> Reply<()> {
        let mut guard = lock();
        let pending = guard.get_or_insert_default();
        if pending.operations.contains_key(&self.place.address()) {
            return Err(Fault(WSAEINVAL)); // its OVERLAPPED is another's, which is pending
        }
        let told = |count| {
            if let Some(returned) = returned {
                returned.store(count);
            }
        };
        match self.request.attempt() {
            Ok(bytes) => {
                told(bytes);
                self.complete(Ok(bytes));
                Ok(())
            }
            Err(Refusal::TooSmall(needed)) => {
                let (error, count) = question::too_small(needed);
                told(count);
                Err(Fault(error))
            }
            Err(Refusal::Final(fault)) => {
                told(0);
                Err(fault)
            }
            Err(Refusal::NotYet(interest)) => {
                self.interest = interest;
                pending.add(self)?;
                Err(Fault(WSA_IO_PENDING))
            }
        }
    }

    /// The one completion. Whoever calls it holds the lock, and the operation, which is pending no more.
    fn complete(self, outcome: Result<DWORD, INT>) {
        let (error, bytes) = match outcome {
            Ok(bytes) => (0, bytes),
            Err(error) => (error as DWORD, 0),
        };
        if !self.place.is_good() {
            MISUSES.fetch_add(1, Ordering::Relaxed); // freed while pending
            return;
        }
        sys::publish(self.place, error as usize, bytes as usize);
        match self.notify {
            Notify::Event(0) => {}
            Notify::Event(event) => {
                if event::set(std::ptr::without_provenance_mut(event)).is_err() {
                    MISUSES.fetch_add(1, Ordering::Relaxed);
                }
            }
            Notify::Routine(routine, queue) => queue.push(Apc::Completion {
                routine,
                error,
                bytes,
                overlapped: self.place,
                socket: self.socket,
            }),
        }
        DONE.notify_all();
    }
}

fn checked_event(event: HANDLE) -> Reply<usize> {
    if event.addr() & !3 != 0 {
        event::reset(event)?;
    }
    Ok(event.addr() & !3)
}

impl Pending {
    fn add(&mut self, operation: Operation) -> Reply<()> {
        if self.operations.len() >= PENDING_MAX {
            return Err(Fault(WSAENOBUFS));
        }
        let (socket, address) = (operation.socket, operation.place.address());
        sys::publish(operation.place, STATUS_PENDING, 0);
        self.operations.insert(address, operation);
        self.by_socket.insert((socket, address));
        worker::watch(socket, self.interests(socket)).inspect_err(|_| {
            self.take(address);
        })
    }

    fn take(&mut self, address: usize) -> Option<Operation> {
        let operation = self.operations.remove(&address)?;
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
            .map(|operation| operation.interest)
            .collect()
    }

    /// Something happened to the socket: what can be answered now is.
    fn proceed(&mut self, socket: i32) {
        let addresses: Vec<usize> = self.of_socket(socket).collect();
        for address in addresses {
            let Some(operation) = self.operations.get_mut(&address) else {
                continue;
            };
            let outcome = match operation.request.attempt() {
                Err(Refusal::NotYet(interest)) => {
                    operation.interest = interest;
                    continue;
                }
                Ok(bytes) => Ok(bytes),
                Err(Refusal::Final(Fault(error))) => Err(error),
                Err(Refusal::TooSmall(needed)) => Err(question::too_small(needed).0),
            };
            if let Some(operation) = self.take(address) {
                operation.complete(outcome);
            }
        }
        let interests = self.interests(socket);
        if !interests.is_empty() {
            let _ = worker::watch(socket, interests); // it was watched before
        }
    }

    fn abort(&mut self, whose: impl Fn(&Operation) -> bool) -> usize {
        let chosen = self
            .operations
            .iter()
            .filter(|(_, operation)| whose(operation));
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

/// What is pending on a socket ends with WSA_OPERATION_ABORTED. Returns how many that were.
pub(crate) fn abort_socket(socket: i32) -> usize {
    (lock().as_mut()).map_or(0, |pending| pending.abort_socket(socket))
}

/// The same, and then it is closed, before anything else can become pending on it.
pub(crate) fn close<T>(socket: i32, close: impl FnOnce() -> T) -> T {
    let mut guard = lock();
    if let Some(pending) = guard.as_mut() {
        pending.abort_socket(socket);
    }
    close()
}

/// What a thread has begun, at its end.
pub(crate) fn abort_thread(number: usize) {
    let _ = call::guard_always(|| {
        abort(|operation| operation.issuer == number);
        Ok(()) // a panic at a thread's end would end the process
    });
}

/// Everything.
pub(crate) fn abort_all() {
    abort(|_| true);
}

fn abort(whose: impl Fn(&Operation) -> bool) -> usize {
    lock().as_mut().map_or(0, |pending| pending.abort(whose))
}

/// How an operation ended: its bytes. Errors: its own, WSA_IO_INCOMPLETE, WSA_INVALID_PARAMETER (waiting for one with a
/// completion routine).
fn result(place: Place<WSAOVERLAPPED>, wait: bool) -> Reply<DWORD> {
    let mut guard = lock();
    while let Some(operation) =
        (guard.as_ref()).and_then(|pending| pending.operations.get(&place.address()))
    {
        if !wait {
            return Err(Fault(WSA_IO_INCOMPLETE));
        }
        if let Notify::Routine(..) = operation.notify {
            return Err(Fault(WSA_INVALID_PARAMETER));
        }
        guard = DONE.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    let ended = place.load();
    match ended.Internal {
        0 => Ok(ended.InternalHigh as DWORD),
        STATUS_PENDING => Err(Fault(WSA_IO_INCOMPLETE)), // never begun
        error => Err(Fault(error as INT)),
    }
}

fn lock() -> MutexGuard<'static, Option<Pending>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}
