//! The calls that no crate has a safe name for. All of the benchmark's unsafe code is here.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use sidetrack_abi::kernel::{CONTEXT, LISTEN, SOL_SIDETRACK};
use sidetrack_winsock::abi::WSADATA;

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

/// A redirected socket's context. Returns its length.
pub(crate) fn context_of(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let mut length = room.len() as libc::socklen_t;
    // SAFETY: `room` may be written for `length` bytes; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_SIDETRACK,
            CONTEXT,
            room.as_mut_ptr().cast(),
            &mut length,
        )
    };
    match result {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What WSAStartup fills in.
pub(crate) fn zeroed_winsock_data() -> WSADATA {
    // SAFETY: it is a plain C structure, and zeros are valid values of its members.
    unsafe { mem::zeroed() }
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

/// Datagrams of one size that are received together, in one system call.
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

    /// The payload at this place.
    pub(crate) fn payload(&self, place: usize) -> &[u8] {
        &self.payloads[place * self.size..][..self.parts[place].iov_len]
    }

    /// The first `count`, one after another, if all are of the full size.
    pub(crate) fn whole(&self, count: usize) -> Option<&[u8]> {
        let is_whole = |part: &libc::iovec| part.iov_len == self.size;
        (self.parts[..count].iter().all(is_whole)).then(|| &self.payloads[..count * self.size])
    }

    /// Who sent the first one.
    pub(crate) fn sender(&self) -> SocketAddrV4 {
        let name = &self.names[0];
        let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
        SocketAddrV4::new(address, u16::from_be(name.sin_port))
    }

    /// Takes what is there, at most as many as there is room for; none is 0.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.aim();
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

    /// Lets the headers point to where everything lies now.
    fn aim(&mut self) {
        let payloads = self.payloads.chunks_exact_mut(self.size);
        let parts = self.parts.iter_mut().zip(payloads);
        let ends = self.headers.iter_mut().zip(&mut self.names);
        for ((part, payload), (header, name)) in parts.zip(ends) {
            part.iov_base = payload.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of_val(name) as libc::socklen_t;
        }
    }
}

/// From now on what is sent is cut into datagrams of `size` bytes (UDP_SEGMENT).
pub(crate) fn cut_into(socket: impl AsFd, size: usize) -> io::Result<()> {
    let size = size as libc::c_int;
    // SAFETY: `size` is readable for its length during the call; the socket is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
