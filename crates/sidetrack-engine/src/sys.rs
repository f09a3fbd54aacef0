//! System calls for which neither libbpf-rs nor rustix has a safe function: all of the crate's unsafe code.

use std::ffi::CStr;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::RingBuffer;
use libbpf_sys::{bpf_attach_type, bpf_prog_query_opts};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use sidetrack_abi::kernel::{LISTEN, Listen, SOL_SIDETRACK};
use zerocopy::IntoBytes;

/// The protocol of sockets that send whole packets and receive none: IPPROTO_RAW.
const RAW: NonZero<u32> = NonZero::new(255).unwrap();

/// Number of programs that one query can return. The kernel allows 64 for each cgroup on the path.
const PROGRAMS_MAX: usize = 1024;

/// The ids of the programs that are attached to a cgroup; if `effective`, of all that run for it.
pub(crate) fn programs(
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
    effective: bool,
) -> io::Result<Vec<u32>> {
    let mut ids = vec![0; PROGRAMS_MAX];
    let mut options = bpf_prog_query_opts {
        sz: size_of::<bpf_prog_query_opts>() as libbpf_sys::size_t,
        query_flags: if effective {
            libbpf_sys::BPF_F_QUERY_EFFECTIVE
        } else {
            0
        },
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    options.__bindgen_anon_1.count = PROGRAMS_MAX as u32;
    // SAFETY: `options` says its own size; `prog_ids` has room for `count` numbers, and both outlive
    // the call; `cgroup` is open as it is borrowed.
    let result =
        unsafe { libbpf_sys::bpf_prog_query_opts(cgroup.as_raw_fd(), kind, &raw mut options) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel has written the count; each variant of the union is the same number.
    let count = unsafe { options.__bindgen_anon_1.count };
    ids.truncate(count as usize);
    Ok(ids)
}

/// Lets the kernel measure the run time of every eBPF program, until the descriptor is closed.
pub(crate) fn time_programs() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so this is a new descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// The descriptor that is readable when the ring buffer has events.
pub(crate) fn borrow_fd<'a>(ring: &'a RingBuffer<'_>) -> BorrowedFd<'a> {
    // SAFETY: the ring keeps its epoll descriptor open for as long as it lives, which is 'a or longer.
    unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) }
}

/// The cookie of a socket's network namespace.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; the socket is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Binds a socket to a device: it sends by this device only.
fn bind_to_device(socket: BorrowedFd<'_>, device: &CStr) -> io::Result<()> {
    // SAFETY: `device` is readable for its length during the call; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            device.count_bytes() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Marks a listening socket as a listener of a service.
pub(crate) fn mark_listener(socket: BorrowedFd<'_>, listen: &Listen) -> io::Result<()> {
    let value = listen.as_bytes();
    // SAFETY: `value` is readable for its length during the call; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_SIDETRACK,
            LISTEN,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A raw socket that sends whole packets, and receives none. For IPv4 it sends to this host only; for IPv6,
/// that would leave out clients whose socket is bound to an address of another device than `lo`.
pub(crate) fn raw_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(Protocol::from_raw(RAW));
    let socket = socket_with(family, SocketType::RAW, flags, protocol)?;
    if family == AddressFamily::INET {
        bind_to_device(socket.as_fd(), c"lo")?;
    }
    Ok(socket)
}
