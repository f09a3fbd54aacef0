//! The calls that no crate has a safe name for. All of the benchmark's unsafe code is here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use sidetrack_abi::kernel::{LISTEN, SOL_SIDETRACK};

/// Makes a listener one of a service's, as the SDK does with its own.
pub(crate) fn mark_listener(listener: BorrowedFd<'_>, credentials: &[u8]) -> io::Result<()> {
    // SAFETY: `credentials` is readable for its length during the call; `listener` is open as it is
    // borrowed.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            SOL_SIDETRACK,
            LISTEN,
            credentials.as_ptr().cast(),
            credentials.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the kernel take the time of every eBPF program, until the descriptor is closed.
pub(crate) fn enable_program_statistics() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so this is a descriptor just opened, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
