//! System calls that no crate offers as safe functions. All unsafe code of the benchmark is here
//! and in `connect/sys.rs`.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use sidetrack_abi::kernel::{CONTEXT, LISTEN, SOL_SIDETRACK};
use sidetrack_winsock::abi::WSADATA;

/// Marks a listener as one of a service, as the SDK does with its own listeners.
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

/// Reads the redirect context of an accepted socket into `buffer`, and returns its length.
pub(crate) fn context_of(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: `buffer` may be written for `length` bytes; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_SIDETRACK,
            CONTEXT,
            buffer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    match result {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An empty structure for WSAStartup to fill in.
pub(crate) fn zeroed_winsock_data() -> WSADATA {
    // SAFETY: WSADATA is a plain C structure, and zeros are valid values of its members.
    unsafe { mem::zeroed() }
}

/// Makes the kernel measure the run time of every eBPF program until the returned descriptor is
/// closed.
pub(crate) fn enable_program_statistics() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so the descriptor was just opened, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Receive buffers for datagrams of one size, filled together by one system call.
pub(crate) struct ReceiveBuffers {
    /// The size of each buffer in bytes.
    size: usize,
    payloads: Box<[u8]>,
    addresses: Box<[libc::sockaddr_in]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl ReceiveBuffers {
    /// Allocates `count` buffers of `size` bytes each.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        // SAFETY: all three are plain C structures, and zeros are valid values of their members.
        let (address, vector, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            size,
            payloads: vec![0; count * size].into(),
            addresses: vec![address; count].into(),
            vectors: vec![vector; count].into(),
            headers: vec![header; count].into(),
        }
    }

    /// The payload of the datagram with this index.
    pub(crate) fn payload(&self, index: usize) -> &[u8] {
        &self.payloads[index * self.size..][..self.vectors[index].iov_len]
    }

    /// The first `count` payloads, one after another. `None` unless all of them have the full size.
    pub(crate) fn contiguous(&self, count: usize) -> Option<&[u8]> {
        let is_full = |vector: &libc::iovec| vector.iov_len == self.size;
        (self.vectors[..count].iter().all(is_full)).then(|| &self.payloads[..count * self.size])
    }

    /// The address that sent the first datagram.
    pub(crate) fn sender(&self) -> SocketAddrV4 {
        let sender = &self.addresses[0];
        let address = Ipv4Addr::from(sender.sin_addr.s_addr.to_ne_bytes());
        SocketAddrV4::new(address, u16::from_be(sender.sin_port))
    }

    /// Receives the waiting datagrams, at most one for each buffer, and returns their number. Does
    /// not block.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.set_pointers();
        for vector in &mut self.vectors {
            vector.iov_len = self.size;
        }
        // SAFETY: `set_pointers` made each header point to an address and a vector of this
        // structure, and each vector to a payload of `size` bytes. None of them moves, and all
        // outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = zero_if_blocked(count)?;
        for (vector, header) in self.vectors.iter_mut().zip(&self.headers[..count]) {
            vector.iov_len = header.msg_len as usize;
        }
        Ok(count)
    }

    /// Makes each header point to its vector and its address, and each vector to its payload.
    fn set_pointers(&mut self) {
        let payloads = self.payloads.chunks_exact_mut(self.size);
        let vectors = self.vectors.iter_mut().zip(payloads);
        let headers = self.headers.iter_mut().zip(&mut self.addresses);
        for ((vector, payload), (header, address)) in vectors.zip(headers) {
            vector.iov_base = payload.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of_val(address) as libc::socklen_t;
        }
    }
}

/// Makes the kernel split what the socket sends into datagrams of `size` bytes (UDP_SEGMENT).
pub(crate) fn set_segment_size(socket: impl AsFd, size: usize) -> io::Result<()> {
    let size = size as libc::c_int;
    // SAFETY: `size` is readable for its length during the call; `socket` is open as it is
    // borrowed.
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

fn zero_if_blocked(count: libc::c_int) -> io::Result<usize> {
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        },
    }
}
