//! Waiting for events, and alertable waits.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::with;
use crate::abi::{
    DWORD, HANDLE, WSA_INFINITE, WSA_WAIT_EVENT_0, WSA_WAIT_IO_COMPLETION, WSA_WAIT_TIMEOUT,
};
use crate::error::{WSA_NOT_ENOUGH_MEMORY, WSASYSCALLFAILURE, WinsockError, WinsockResult};
use crate::thread;

/// The time at which a wait ends. `None` if it never does.
fn deadline(milliseconds: DWORD) -> Option<Instant> {
    (milliseconds != WSA_INFINITE)
        .then(|| Instant::now() + Duration::from_millis(milliseconds.into()))
}

/// Implements SleepEx. Returns whether an APC has run.
pub(super) fn sleep(milliseconds: DWORD, alertable: bool) -> WinsockResult<bool> {
    Ok(poll_until(&[], deadline(milliseconds), alertable)? == Some(WSA_WAIT_IO_COMPLETION))
}

/// Implements WSAWaitForMultipleEvents. Returns the index of the first event that is set, or 0 if
/// `all` are.
pub(super) fn wait(
    events: &[HANDLE],
    all: bool,
    milliseconds: DWORD,
    alertable: bool,
) -> WinsockResult<DWORD> {
    // The descriptors are duplicated, so that they stay valid if another thread closes an event.
    let mut eventfds = Vec::with_capacity(events.len());
    for &event in events {
        let copy = with(event, OwnedFd::try_clone)?;
        eventfds.push(copy.map_err(|_| WinsockError(WSA_NOT_ENOUGH_MEMORY))?);
    }
    let deadline = deadline(milliseconds);
    let mut remaining: Vec<&OwnedFd> = eventfds.iter().collect();
    loop {
        let first = match poll_until(&remaining, deadline, alertable)? {
            None => return Ok(WSA_WAIT_TIMEOUT),
            Some(WSA_WAIT_IO_COMPLETION) => return Ok(WSA_WAIT_IO_COMPLETION),
            Some(first) if !all => return Ok(WSA_WAIT_EVENT_0 + first),
            Some(first) => first,
        };
        remaining.remove(first as usize);
        if !remaining.is_empty() {
            continue;
        }
        // Each was set at some time. Check whether all are set at the same time.
        remaining = (eventfds.iter())
            .filter(|eventfd| !is_set(eventfd))
            .collect();
        if remaining.is_empty() {
            return Ok(WSA_WAIT_EVENT_0);
        }
    }
}

fn is_set(eventfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(eventfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Waits for one of the eventfds. Returns the index of one that is set, WSA_WAIT_IO_COMPLETION
/// after APCs have run, or `None` at the deadline.
fn poll_until(
    eventfds: &[&OwnedFd],
    deadline: Option<Instant>,
    alertable: bool,
) -> WinsockResult<Option<DWORD>> {
    let queue = match alertable {
        true => Some(thread::own_queue()?),
        false => None,
    };
    loop {
        if let Some(queue) = &queue
            && queue.run() > 0
        {
            return Ok(Some(WSA_WAIT_IO_COMPLETION));
        }
        let mut polled: Vec<PollFd<'_>> = (eventfds.iter())
            .map(|eventfd| PollFd::new(*eventfd, PollFlags::IN))
            .collect();
        if let Some(queue) = &queue {
            polled.push(PollFd::from_borrowed_fd(
                queue.eventfd().as_fd(),
                PollFlags::IN,
            ));
        }
        match poll(&mut polled, time_left(deadline).as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Err(WinsockError(WSASYSCALLFAILURE)),
        }
        let set = (polled[..eventfds.len()].iter()).position(|one| !one.revents().is_empty());
        if let Some(first) = set {
            return Ok(Some(first as DWORD));
        }
    }
}

fn time_left(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    })
}
