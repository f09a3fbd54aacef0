//! What the event loops of a service share for held clients: which loop holds which client, and what
//! one loop hands over to another.
//!
//! One loop at a time waits for the ring buffer of notices, since a notice wakes each thread that
//! waits for it. The loop that is woken reads some notices, and then lets the next loop wait that
//! has nothing to do. So a loop that is busy with its connections gets no further ones.
//!
//! The kernel does not know which loop holds a client. So a loop may accept the connection of
//! another one's client, or read that the client has gone, and hands that over.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use sidetrack::Error;

use super::source::{ConnectionSource, Notice};
use crate::connection::LoopSocket;
use crate::reactor::Arm;
use crate::upstream::PendingConnect;

/// How many notices a loop reads before another one may.
pub(super) const NOTICES_MAX: usize = 8;

/// The event loops of a service whose clients are held.
pub(crate) struct PendedLoops<U> {
    /// The index of the loop that holds a client, by the id of the client's flow.
    holders: Mutex<HashMap<u64, usize>>,
    loops: Box<[PendedLoop<U>]>,
}

/// What others need of one event loop.
struct PendedLoop<U> {
    /// What other loops have handed over, in order.
    handovers: Mutex<Vec<Handover<U>>>,
    /// Readable while there are handovers.
    event: OwnedFd,
    /// To let the loop wait for notices; `None` while it does not run.
    arm: Mutex<Option<Arm<LoopSocket>>>,
    /// Whether the loop has nothing to do, and has room.
    is_free: AtomicBool,
}

/// What one loop hands over to the loop that holds the client.
pub(super) enum Handover<U> {
    /// The client was accepted.
    Accepted(TcpStream, U),
    /// The client of the flow with this id is gone.
    Gone(u64),
}

/// What a loop has read.
pub(super) struct Notices<P> {
    pub(super) clients: Vec<P>,
    /// The ids of the flows whose clients are gone.
    pub(super) gone: Vec<u64>,
}

impl<U> PendedLoops<U> {
    /// Errors: [`Error::System`], if the kernel cannot make an eventfd.
    pub(crate) fn new(count: usize) -> Result<Self, Error> {
        let loops = (0..count).map(|_| {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            Ok(PendedLoop {
                handovers: Mutex::default(),
                event: eventfd(0, flags)?,
                arm: Mutex::default(),
                is_free: AtomicBool::new(false),
            })
        });
        let loops: Result<_, Errno> = loops.collect();
        Ok(Self {
            holders: Mutex::default(),
            loops: loops.map_err(|source| Error::System {
                what: "make an event",
                source: source.into(),
            })?,
        })
    }

    /// Readable while something was handed over to the loop.
    pub(super) fn event(&self, index: usize) -> BorrowedFd<'_> {
        self.loops[index].event.as_fd()
    }

    /// The loop takes part from now on. The first one waits for notices.
    pub(super) fn join(&self, index: usize, arm: Arm<LoopSocket>, notices: BorrowedFd<'_>) {
        *lock(&self.loops[index].arm) = Some(arm);
        self.set_free(index, true);
        if index == 0 {
            self.loops[index].arm(notices);
        }
    }

    /// The loop takes part no longer. It holds no client.
    pub(super) fn leave(&self, index: usize, notices: BorrowedFd<'_>) {
        self.set_free(index, false);
        *lock(&self.loops[index].arm) = None;
        self.pass_on(index, notices); // it may be the one that waits for them
    }

    /// Notes whether the loop has nothing to do, and has room.
    pub(super) fn set_free(&self, index: usize, is_free: bool) {
        self.loops[index].is_free.store(is_free, Ordering::Relaxed);
    }

    /// Lets a loop wait for notices: the next one that is free, otherwise this one, or else any.
    pub(super) fn pass_on(&self, index: usize, notices: BorrowedFd<'_>) {
        let count = self.loops.len();
        let others = (1..count).map(|distance| &self.loops[(index + distance) % count]);
        let is_free = |one: &&PendedLoop<U>| one.is_free.load(Ordering::Relaxed);
        let free = others.clone().filter(is_free);
        let mut loops = free.chain([&self.loops[index]]).chain(others);
        loops.any(|one| one.arm(notices));
    }

    /// Reads up to [`NOTICES_MAX`] notices. This loop holds the new clients from now on. If a client
    /// is gone that another loop holds, that loop is notified.
    pub(super) fn read<S>(&self, index: usize, source: &S) -> Notices<S::Pending>
    where
        S: ConnectionSource<Upstream = U>,
    {
        let (mut clients, mut gone) = (Vec::with_capacity(NOTICES_MAX), Vec::new());
        // The lock is held over all, so that the holder of a client is known when a loop reads that
        // the client is gone.
        let mut holders = lock(&self.holders);
        for _ in 0..NOTICES_MAX {
            match source.next_notice() {
                Ok(Some(Notice::Pending(pending))) => {
                    holders.insert(pending.flow_id(), index);
                    clients.push(pending);
                }
                Ok(Some(Notice::Gone(flow_id))) => match holders.get(&flow_id) {
                    Some(holder) if *holder == index => gone.push(flow_id),
                    Some(holder) => self.hand_over(*holder, Handover::Gone(flow_id)),
                    None => {} // it has ended here before
                },
                Ok(None) => break,
                Err(_) => {} // damaged notices were skipped; the clients send their SYNs again
            }
        }
        Notices { clients, gone }
    }

    /// The loop that holds the client of this flow.
    pub(super) fn holder(&self, flow_id: u64) -> Option<usize> {
        lock(&self.holders).get(&flow_id).copied()
    }

    /// The client of this flow is held no longer.
    pub(super) fn release(&self, flow_id: u64) {
        lock(&self.holders).remove(&flow_id);
    }

    pub(super) fn hand_over(&self, holder: usize, what: Handover<U>) {
        let to = &self.loops[holder];
        let mut handovers = lock(&to.handovers);
        handovers.push(what);
        if handovers.len() == 1 {
            let _ = rustix::io::write(&to.event, &1_u64.to_ne_bytes()); // it fails only if it is readable
        }
    }

    /// Takes what was handed over to the loop.
    pub(super) fn take_handovers(&self, index: usize) -> Vec<Handover<U>> {
        let own = &self.loops[index];
        let mut handovers = lock(&own.handovers);
        let _ = rustix::io::read(&own.event, &mut [0; 8]); // it fails only if it is not readable
        std::mem::take(&mut handovers)
    }
}

impl<U> PendedLoop<U> {
    /// Lets it wait for notices. Returns whether that was possible.
    fn arm(&self, notices: BorrowedFd<'_>) -> bool {
        let arm = lock(&self.arm);
        arm.as_ref()
            .is_some_and(|arm| arm.arm(notices, LoopSocket::Notices).is_ok())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
