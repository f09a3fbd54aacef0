//! The calls that no crate has a safe name for. All of the benchmark's unsafe code is here.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// Datagrams of one size that are sent or received together, in as few system calls as can be.
pub(crate) struct Mailbox {
    size: usize,
    payloads: Box<[u8]>,
    names: Box<[libc::sockaddr_in]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Mailbox {
    /// Room for so many, of `size` bytes each.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        // SAFETY: all of these are plain C structures, and zeros are valid values of theirs.
        let (name, part, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            size,
            payloads: vec![0; count * size].into(),
            names: vec![name; count].into(),
            parts: vec![part; count].into(),
            headers: vec![header; count].into(),
        }
    }

    /// Room for the payload at this place.
    pub(crate) fn room(&mut self, place: usize) -> &mut [u8] {
        &mut self.payloads[place * self.size..][..self.size]
    }

    /// The payload at this place.
    pub(crate) fn payload(&self, place: usize) -> &[u8] {
        &self.payloads[place * self.size..][..self.parts[place].iov_len]
    }

    /// Sends the first `count` on a connected socket. Returns how many were taken.
    pub(crate) fn send(
        &mut self,
        socket: impl AsFd,
        count: usize,
        size: usize,
    ) -> io::Result<usize> {
        self.aim(false);
        for part in &mut self.parts {
            part.iov_len = size;
        }
        self.transmit(socket.as_fd(), count)
    }

    /// Takes what is there, at most as many as there is room for; none is 0.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.aim(true);
        for part in &mut self.parts {
            part.iov_len = self.size;
        }
        // SAFETY: `aim` has let each header point to a name and a part of this mailbox, and each part
        // to a payload of `size` bytes; none moves, and all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = none_if_blocked(count)?;
        for (part, header) in self.parts.iter_mut().zip(&self.headers[..count]) {
            part.iov_len = header.msg_len as usize;
        }
        Ok(count)
    }

    /// Sends the first `count` of what was received to where it came from.
    pub(crate) fn send_back(&mut self, socket: impl AsFd, count: usize) -> io::Result<usize> {
        self.aim(true);
        self.transmit(socket.as_fd(), count)
    }

    fn transmit(&mut self, socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        assert!(count <= self.headers.len());
        // SAFETY: as in `receive`; the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        none_if_blocked(sent)
    }

    /// Lets the headers point to where everything lies now.
    fn aim(&mut self, with_names: bool) {
        let payloads = self.payloads.chunks_exact_mut(self.size);
        let parts = self.parts.iter_mut().zip(payloads);
        let ends = self.headers.iter_mut().zip(&mut self.names);
        for ((part, payload), (header, name)) in parts.zip(ends) {
            part.iov_base = payload.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = match with_names {
                true => std::ptr::from_mut(name).cast(),
                false => std::ptr::null_mut(),
            };
            let length = if with_names { size_of_val(name) } else { 0 };
            header.msg_hdr.msg_namelen = length as libc::socklen_t;
        }
    }
}

fn none_if_blocked(count: libc::c_int) -> io::Result<usize> {
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        },
    }
}
