//! Many datagrams in one system call, each with the address it came to or comes from.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

/// Bytes of control data: a packet's own address of either family, with room to spare.
const CONTROL_SIZE: usize = 128;

#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL_SIZE]);

/// What came with a datagram.
#[derive(Clone, Copy, Debug)]
pub(in crate::datagram) struct Envelope {
    /// Bytes.
    pub(in crate::datagram) length: usize,
    /// It was longer than its buffer.
    pub(in crate::datagram) truncated: bool,
    /// The sender.
    pub(in crate::datagram) from: SocketAddr,
    /// The address it came to.
    pub(in crate::datagram) to: IpAddr,
}

/// A datagram to be sent; without addresses: on a connected socket.
#[derive(Clone, Copy, Debug)]
pub(in crate::datagram) struct Letter<'a> {
    pub(in crate::datagram) payload: &'a [u8],
    pub(in crate::datagram) from: Option<IpAddr>,
    pub(in crate::datagram) to: Option<SocketAddr>,
}

/// What `recvmmsg` needs besides room for payloads, made once.
pub(in crate::datagram) struct Inbox {
    storages: Box<[SockAddrStorage]>,
    controls: Box<[Control]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// Prepared for the next call: twice what the last one got, as preparing takes time too.
    expected: usize,
}

/// At least so many are prepared for.
const EXPECTED_MIN: usize = 4;

// SAFETY: its pointers are set anew at the beginning of each call that uses them, so none is ever used
// in another place, or on another thread, than it was set.
unsafe impl Send for Inbox {}
// SAFETY: as above; whoever only looks at it reads no pointer.
unsafe impl Sync for Inbox {}

impl Inbox {
    /// For so many datagrams at once.
    pub(in crate::datagram) fn new(datagrams: usize) -> Self {
        // SAFETY: both are plain C structures, and zeros are valid values of theirs.
        let (part, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let storages = (0..datagrams).map(|_| SockAddrStorage::zeroed());
        Self {
            storages: storages.collect(),
            controls: vec![Control([0; CONTROL_SIZE]); datagrams].into(),
            parts: vec![part; datagrams].into(),
            headers: vec![header; datagrams].into(),
            expected: EXPECTED_MIN.min(datagrams),
        }
    }

    /// Receives datagrams that are there, at most one for each `size` bytes of `buffer`, and at most twice
    /// as many as the last time.
    ///
    /// Does not wait; whatever has no address of its own (`IP_PKTINFO`) is left out.
    pub(in crate::datagram) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        size: usize,
        mut put: impl FnMut(usize, Envelope),
    ) -> io::Result<()> {
        let rooms = buffer.chunks_exact_mut(size);
        let ends = self.storages.iter_mut().zip(&mut self.controls);
        let places = self.headers.iter_mut().zip(&mut self.parts);
        let mut count = 0;
        for (((placed, part_of), (name, control)), room) in
            places.zip(ends).zip(rooms).take(self.expected)
        {
            *part_of = part(room);
            let control = control.0.as_mut_ptr();
            let name_length = name.size_of();
            let name = ptr::from_mut(name).cast();
            placed.msg_hdr = header(name, name_length, part_of, control, CONTROL_SIZE);
            count += 1;
        }
        // SAFETY: each header points to a name, a control buffer and one part, which are all as long as
        // the header says, are not moved, and outlive the call; `socket` is open as it is borrowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.expected = (2 * count).max(EXPECTED_MIN).min(self.headers.len());
        for (index, header) in self.headers[..count].iter().enumerate() {
            let from = sender(&self.storages[index], header.msg_hdr.msg_namelen);
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
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("datagrams", &self.headers.len())
            .finish()
    }
}

fn sender(storage: &SockAddrStorage, length: libc::socklen_t) -> Option<SocketAddr> {
    let mut copy = SockAddrStorage::zeroed();
    // SAFETY: both are of the same type, plain bytes, and do not overlap.
    unsafe { ptr::copy_nonoverlapping(storage, &raw mut copy, 1) };
    // SAFETY: the kernel has written the sender's address there, of that length.
    unsafe { SockAddr::new(copy, length) }.as_socket()
}

/// Datagrams of one size, from one place to one, that the kernel takes as one and cuts again
/// (UDP_SEGMENT); all that it takes.
const SEGMENTS_MAX: usize = 64;
/// And so many bytes of them.
const SEGMENTS_SIZE_MAX: usize = 65_000;

/// Sends datagrams. Returns how many; an error is the first one's.
pub(in crate::datagram) fn send(
    socket: BorrowedFd<'_>,
    letters: &[Letter<'_>],
) -> io::Result<usize> {
    let runs: Vec<&[Letter<'_>]> = letters
        .chunk_by(|a, b| a.to == b.to && a.from == b.from && a.payload.len() == b.payload.len())
        .flat_map(|run| {
            let size = run[0].payload.len().max(1);
            run.chunks((SEGMENTS_SIZE_MAX / size).clamp(1, SEGMENTS_MAX))
        })
        .collect();
    match send_runs(socket, &runs) {
        // Not there, or longer than a packet may be on that way: one by one they may be cut elsewhere.
        Err(error) if runs[0].len() > 1 && is_about_segments(&error) => {
            send_runs(socket, &letters.chunks(1).collect::<Vec<_>>())
        }
        sent => sent,
    }
}

fn is_about_segments(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

/// Each run in one header.
fn send_runs(socket: BorrowedFd<'_>, runs: &[&[Letter<'_>]]) -> io::Result<usize> {
    let mut names: Vec<Option<SockAddr>> =
        runs.iter().map(|run| run[0].to.map(Into::into)).collect();
    let mut controls = vec![Control([0; CONTROL_SIZE]); runs.len()];
    let mut parts: Vec<libc::iovec> = runs
        .iter()
        .flat_map(|run| run.iter())
        .map(|letter| libc::iovec {
            iov_base: letter.payload.as_ptr().cast_mut().cast(),
            iov_len: letter.payload.len(),
        })
        .collect();
    let mut rest = &mut parts[..];
    let mut headers = Vec::with_capacity(runs.len());
    for ((run, name), control) in runs.iter().zip(&mut names).zip(&mut controls) {
        let (own, others) = mem::take(&mut rest).split_at_mut(run.len());
        rest = others;
        let length = write_control_data(control, run);
        let (name, name_length) = match name {
            Some(name) => (name.as_ptr().cast_mut().cast(), name.len()),
            None => (ptr::null_mut(), 0),
        };
        let mut msg_hdr = header(
            name,
            name_length,
            &mut own[0],
            control.0.as_mut_ptr(),
            length,
        );
        msg_hdr.msg_iovlen = own.len() as _;
        headers.push(libc::mmsghdr {
            msg_hdr,
            msg_len: 0,
        });
    }
    // SAFETY: each header points to a name or to none, a control buffer and its own parts, which are all
    // as long as the header says and outlive the call; the kernel writes to none of them. `socket` is
    // open.
    let count = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            0,
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(runs[..count].iter().map(|run| run.len()).sum())
}

/// The source, if it is told, and the size that a run is cut to. Returns the length.
fn write_control_data(control: &mut Control, run: &[Letter<'_>]) -> usize {
    let mut length = match run[0].from {
        Some(from) => write_source(control, from),
        None => 0,
    };
    if run.len() > 1 {
        let size = run[0].payload.len() as u16;
        length += write_control(control, length, libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
    length
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
            write_control(control, 0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(v6) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: v6.octets(),
                },
                ipi6_ifindex: 0,
            };
            write_control(control, 0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// Writes one behind the first `used` bytes, which are a multiple of a header's alignment.
fn write_control<T: Copy>(
    control: &mut Control,
    used: usize,
    level: i32,
    kind: i32,
    value: T,
) -> usize {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: both are mere arithmetic.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    assert!(used + space as usize <= CONTROL_SIZE);
    let head = control.0[used..].as_mut_ptr().cast::<libc::cmsghdr>();
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
