//! The system calls that socket2 has no name for. All of the crate's unsafe code is here.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sidetrack_abi::kernel::{INFO, SOL_SIDETRACK};
use socket2::{SockAddr, SockAddrStorage};

/// What eBPF sees of an option's buffer at most, and so the longest answer.
const OPTION_SIZE_MAX: usize = 4096;
/// For INFO, whose answer is most likely short: the kernel clears what it is given.
static INFO_SIZE: AtomicUsize = AtomicUsize::new(1344);

/// So that the ABI's structures can be read where they lie.
#[repr(align(8))]
struct Aligned([MaybeUninit<u8>; OPTION_SIZE_MAX]);

/// Asks for an option, and hands the answer to `read` where it lies: the caller copies what it wants.
pub(crate) fn get_option<T>(
    socket: BorrowedFd<'_>,
    name: i32,
    read: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    let mut buffer = Aligned([MaybeUninit::<u8>::uninit(); OPTION_SIZE_MAX]);
    let size = match name {
        INFO => INFO_SIZE.load(Ordering::Relaxed),
        _ => OPTION_SIZE_MAX,
    };
    let mut length = size as libc::socklen_t;
    // SAFETY: `buffer` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_SIDETRACK,
            name,
            buffer.0.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (length as usize).min(size);
    // SAFETY: the kernel wrote the first `length` bytes of the buffer, and any bytes are valid as u8.
    let filled = unsafe { std::slice::from_raw_parts(buffer.0.as_ptr().cast::<u8>(), length) };
    Ok(read(filled))
}

/// From now on INFO has room for a context of 1,024 bytes.
pub(crate) fn expect_long_contexts() {
    INFO_SIZE.store(2048, Ordering::Relaxed);
}

/// Sets one of Sidetrack's own options.
pub(crate) fn set_option(socket: BorrowedFd<'_>, name: i32, value: &[u8]) -> io::Result<()> {
    set(socket, SOL_SIDETRACK, name, value)
}

/// Sets a protocol's option to 1.
pub(crate) fn set_flag(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<()> {
    set(socket, level, name, &libc::c_int::from(true).to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: `value` is readable for its length during the call; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The socket's count of datagrams for which its buffer had no room. It wraps at 2³².
pub(crate) fn drops(socket: BorrowedFd<'_>) -> u64 {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS, of SK_MEMINFO_VARS
    let mut figures = [0_u32; DROPS + 1];
    let mut length = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: `figures` is writable for `length` bytes, and `length` is a valid pointer, both for the
    // call's duration; `socket` is open as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            figures.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => figures[DROPS].into(),
        _ => 0,
    }
}

/// The index of one that has something waiting. Blocks.
pub(crate) fn wait_readable(listeners: &[impl AsFd]) -> io::Result<usize> {
    let mut polled: Vec<libc::pollfd> = listeners
        .iter()
        .map(|listener| libc::pollfd {
            fd: listener.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        // SAFETY: `polled` is a valid array of its own length for the call's duration.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        match polled.iter().position(|one| one.revents != 0) {
            Some(index) if ready > 0 => return Ok(index),
            _ if ready < 0 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => {}
        }
    }
}

/// CLOCK_MONOTONIC, the clock of the kernel's flow times.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is valid for writing; CLOCK_MONOTONIC exists on every Linux, so it is filled, and
    // was zeroed before in any case.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Bytes of control data: a packet's own address of either family, with room to spare.
const CONTROL_SIZE: usize = 128;

#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL_SIZE]);

/// What came with a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    /// Bytes.
    pub(crate) length: usize,
    /// It was longer than its buffer.
    pub(crate) truncated: bool,
    /// The sender.
    pub(crate) from: SocketAddr,
    /// The address it came to.
    pub(crate) to: IpAddr,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letter<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) from: IpAddr,
    pub(crate) to: SocketAddr,
}

/// Receives as many datagrams as are there, at most one for each `size` bytes of `buffer`.
///
/// Does not wait; whatever has no address of its own (`IP_PKTINFO`) is left out.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    size: usize,
    mut put: impl FnMut(usize, Envelope),
) -> io::Result<()> {
    let mut storages: Vec<_> = (0..buffer.len() / size)
        .map(|_| SockAddrStorage::zeroed())
        .collect();
    let mut controls = vec![Control([0; CONTROL_SIZE]); storages.len()];
    let mut parts: Vec<libc::iovec> = buffer.chunks_exact_mut(size).map(part).collect();
    let mut headers: Vec<libc::mmsghdr> = (storages.iter_mut())
        .zip(&mut controls)
        .zip(&mut parts)
        .map(|((name, control), part)| libc::mmsghdr {
            msg_hdr: header(
                ptr::from_mut(name).cast(),
                name.size_of(),
                part,
                control.0.as_mut_ptr(),
                CONTROL_SIZE,
            ),
            msg_len: 0,
        })
        .collect();
    // SAFETY: each header points to a name, a control buffer and one part, which are all as long as
    // the header says, are not moved, and outlive the call; `socket` is open as it is borrowed.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for (index, (storage, header)) in storages.into_iter().zip(&headers[..count]).enumerate() {
        let name_length = header.msg_hdr.msg_namelen;
        // SAFETY: the kernel has written the sender's address there, of that length.
        let from = unsafe { SockAddr::new(storage, name_length) }.as_socket();
        if let (Some(from), Some(to)) = (from, own_address(&header.msg_hdr)) {
            let envelope = Envelope {
                length: header.msg_len as usize,
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                from,
                to,
            };
            put(index, envelope);
        }
    }
    Ok(())
}

/// Sends datagrams, each from an address of its own. Returns how many; an error is the first one's.
pub(crate) fn send(socket: BorrowedFd<'_>, letters: &[Letter<'_>]) -> io::Result<usize> {
    let mut names: Vec<SockAddr> = letters.iter().map(|letter| letter.to.into()).collect();
    let mut controls = vec![Control([0; CONTROL_SIZE]); letters.len()];
    let mut parts: Vec<libc::iovec> = letters
        .iter()
        .map(|letter| libc::iovec {
            iov_base: letter.payload.as_ptr().cast_mut().cast(),
            iov_len: letter.payload.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = letters
        .iter()
        .zip(&mut names)
        .zip(&mut controls)
        .zip(&mut parts)
        .map(|(((letter, name), control), part)| {
            let length = write_source(control, letter.from);
            libc::mmsghdr {
                msg_hdr: header(
                    name.as_ptr().cast_mut().cast(),
                    name.len(),
                    part,
                    control.0.as_mut_ptr(),
                    length,
                ),
                msg_len: 0,
            }
        })
        .collect();
    // SAFETY: each header points to a name, a control buffer and one part, which are all as long as
    // the header says and outlive the call; the kernel writes to none of them. `socket` is open.
    let count = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            0,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn header(
    name: *mut libc::c_void,
    name_length: libc::socklen_t,
    part: &mut libc::iovec,
    control: *mut u8,
    control_length: usize,
) -> libc::msghdr {
    // SAFETY: a header of zeros is a valid one; some platforms pad it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name;
    header.msg_namelen = name_length;
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = control.cast();
    header.msg_controllen = control_length as _;
    header
}

/// The address a datagram came to, by its control data.
fn own_address(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the header's control buffer is as long as it says, and the kernel has filled it.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: `control` points into that buffer, and a kernel writes whole control headers.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        // SAFETY: as above; its data follows it.
        let data = unsafe { libc::CMSG_DATA(control) };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: this kind of control data is an in_pktinfo; it may lie anywhere.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in_pktinfo>()) };
                return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: this kind of control data is an in6_pktinfo; it may lie anywhere.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in6_pktinfo>()) };
                return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: both are as above.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}

/// Writes control data that names a datagram's source. Returns its length.
fn write_source(control: &mut Control, from: IpAddr) -> usize {
    match from {
        IpAddr::V4(v4) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(v6) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: v6.octets(),
                },
                ipi6_ifindex: 0,
            };
            write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn write_control<T: Copy>(control: &mut Control, level: i32, kind: i32, value: T) -> usize {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: both are mere arithmetic.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    assert!(space as usize <= CONTROL_SIZE);
    let head = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the buffer has room for the header and its data, as has just been asserted, and is
    // aligned for the header.
    unsafe {
        (*head).cmsg_level = level;
        (*head).cmsg_type = kind;
        (*head).cmsg_len = length as _;
        ptr::write_unaligned(libc::CMSG_DATA(head).cast::<T>(), value);
    }
    space as usize
}
