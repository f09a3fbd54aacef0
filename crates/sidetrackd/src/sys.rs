//! The one system call that no library of ours wraps: `getsockopt` with SO_PEERGROUPS.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns the supplementary groups that the process at the other end of a Unix socket had when it
/// connected (SO_PEERGROUPS).
///
/// Errors: the kernel's.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * size_of::<libc::gid_t>())
            .map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that size, and
        // sets `length` to the number of bytes that it wrote or needs. The descriptor is borrowed,
        // so it is open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
