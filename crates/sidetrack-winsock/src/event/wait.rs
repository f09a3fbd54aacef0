//! Waiting for events, and alertably.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::with;
use crate::abi::{
    DWORD, HANDLE, WSA_INFINITE, WSA_WAIT_EVENT_0, WSA_WAIT_IO_COMPLETION, WSA_WAIT_TIMEOUT,
};
use crate::apc;
use crate::error::{Fault, Reply, WSA_NOT_ENOUGH_MEMORY, WSASYSCALLFAILURE};

/// When a wait is over: `None` is never.
fn deadline(milliseconds: DWORD) -> Option<Instant> {
    (milliseconds != WSA_INFINITE)
        .then(|| Instant::now() + Duration::from_millis(milliseconds.into()))
}

/// SleepEx. Returns whether a routine ran.
pub(crate) fn sleep(milliseconds: DWORD, alertable: bool) -> Reply<bool> {
    Ok(until(&[], deadline(milliseconds), alertable)? == Some(WSA_WAIT_IO_COMPLETION))
}

/// WSAWaitForMultipleEvents: the first event that is set, or all.
pub(super) fn wait(
    events: &[HANDLE],
    all: bool,
    milliseconds: DWORD,
    alertable: bool,
) -> Reply<DWORD> {
    // Its own descriptors, so that an event closed meanwhile is not another's.
    let mut signals = Vec::with_capacity(events.len());
    for &event in events {
        let copy = with(event, OwnedFd::try_clone)?;
        signals.push(copy.map_err(|_| Fault(WSA_NOT_ENOUGH_MEMORY))?);
    }
    let deadline = deadline(milliseconds);
    let mut wanted: Vec<&OwnedFd> = signals.iter().collect();
    loop {
        let first = match until(&wanted, deadline, alertable)? {
            None => return Ok(WSA_WAIT_TIMEOUT),
            Some(WSA_WAIT_IO_COMPLETION) => return Ok(WSA_WAIT_IO_COMPLETION),
            Some(first) if !all => return Ok(WSA_WAIT_EVENT_0 + first),
            Some(first) => first,
        };
        wanted.remove(first as usize);
        if !wanted.is_empty() {
            continue;
        }
        // Each was seen set; are they at the same time?
        wanted = (signals.iter()).filter(|signal| !is_set(signal)).collect();
        if wanted.is_empty() {
            return Ok(WSA_WAIT_EVENT_0);
        }
    }
}

fn is_set(signal: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(signal, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// The index of one that is set, WSA_WAIT_IO_COMPLETION, or `None` at the deadline.
fn until(signals: &[&OwnedFd], deadline: Option<Instant>, alertable: bool) -> Reply<Option<DWORD>> {
    let queue = match alertable {
        true => Some(apc::own_queue()?),
        false => None,
    };
    loop {
        if let Some(queue) = &queue
            && queue.run() > 0
        {
            return Ok(Some(WSA_WAIT_IO_COMPLETION));
        }
        let mut polled: Vec<PollFd<'_>> = (signals.iter())
            .map(|signal| PollFd::new(*signal, PollFlags::IN))
            .collect();
        if let Some(queue) = &queue {
            polled.push(PollFd::from_borrowed_fd(
                queue.signal().as_fd(),
                PollFlags::IN,
            ));
        }
        match poll(&mut polled, left(deadline).as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Err(Fault(WSASYSCALLFAILURE)),
        }
        let set = (polled[..signals.len()].iter()).position(|one| !one.revents().is_empty());
        if let Some(first) = set {
            return Ok(Some(first as DWORD));
        }
    }
}

fn left(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    })
}
