//! System calls for several datagrams at once, each with the address at which it arrived or from
//! which it is sent.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

/// Size of a control buffer in bytes: enough for packet info of either family and a segment size.
const CONTROL_SIZE: usize = 128;

/// A buffer for control data, aligned for `cmsghdr`.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct ControlBuffer([u8; CONTROL_SIZE]);

/// Metadata of a received datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatagramMetadata {
    /// Length of the payload in bytes.
    pub(super) length: usize,
    /// Whether the datagram was longer than its buffer.
    pub(super) truncated: bool,
    /// Address of the sender.
    pub(super) from: SocketAddr,
    /// Address at which the datagram arrived.
    pub(super) to: IpAddr,
}

/// A datagram to be sent. Both addresses are `None` on a connected socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutgoingMessage<'a> {
    pub(super) payload: &'a [u8],
    /// Source address; `None` leaves it to the kernel.
    pub(super) from: Option<IpAddr>,
    /// Destination; `None` on a connected socket.
    pub(super) to: Option<SocketAddr>,
}

/// The structures that `recvmmsg` fills, except for the payloads. They are allocated once.
pub(super) struct ReceiveBuffers {
    storages: Box<[SockAddrStorage]>,
    controls: Box<[ControlBuffer]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// Number of headers to prepare for the next call: twice as many datagrams as the last call
    /// received. Preparing headers takes time too.
    expected: usize,
}

/// Smallest value of `ReceiveBuffers::expected`.
const EXPECTED_MIN: usize = 4;

// SAFETY: every call sets the pointers in `parts` and `headers` again before it uses them. So no
// pointer is used after the value was moved, or on another thread than the one that set it.
unsafe impl Send for ReceiveBuffers {}
// SAFETY: as above; no method reads a pointer through a shared reference.
unsafe impl Sync for ReceiveBuffers {}

impl ReceiveBuffers {
    /// Buffers for at most `datagrams` datagrams per call.
    pub(super) fn new(datagrams: usize) -> Self {
        // SAFETY: both are plain C structures, for which zeros are valid values.
        let (part, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let storages = (0..datagrams).map(|_| SockAddrStorage::zeroed());
        Self {
            storages: storages.collect(),
            controls: vec![ControlBuffer([0; CONTROL_SIZE]); datagrams].into(),
            parts: vec![part; datagrams].into(),
            headers: vec![header; datagrams].into(),
            expected: EXPECTED_MIN.min(datagrams),
        }
    }

    /// Receives the datagrams that are there, without waiting, and passes their index and metadata
    /// to `deliver`. A call receives at most one datagram for each `size` bytes of `buffer`, and at
    /// most twice as many as the last call.
    ///
    /// A datagram without packet info (`IP_PKTINFO`) is dropped.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        size: usize,
        mut deliver: impl FnMut(usize, DatagramMetadata),
    ) -> io::Result<()> {
        let payloads = buffer.chunks_exact_mut(size);
        let names_and_controls = self.storages.iter_mut().zip(&mut self.controls);
        let headers_and_parts = self.headers.iter_mut().zip(&mut self.parts);
        let mut count = 0;
        for (((header_slot, part_slot), (name, control)), payload) in headers_and_parts
            .zip(names_and_controls)
            .zip(payloads)
            .take(self.expected)
        {
            *part_slot = part(payload);
            let control = control.0.as_mut_ptr();
            let name_length = name.size_of();
            let name = ptr::from_mut(name).cast();
            header_slot.msg_hdr = header(name, name_length, part_slot, control, CONTROL_SIZE);
            count += 1;
        }
        // SAFETY: each header points to a name, a control buffer and one part, which are all as
        // long as the header says, are not moved, and outlive the call; `socket` is open as it is
        // borrowed.
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
                let metadata = DatagramMetadata {
                    length: header.msg_len as usize,
                    truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                    from,
                    to,
                };
                deliver(index, metadata);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveBuffers")
            .field("datagrams", &self.headers.len())
            .finish()
    }
}

/// The sender's address, if it is an IP address.
fn sender(storage: &SockAddrStorage, length: libc::socklen_t) -> Option<SocketAddr> {
    let mut copy = SockAddrStorage::zeroed();
    // SAFETY: both are of the same type, plain bytes, and do not overlap.
    unsafe { ptr::copy_nonoverlapping(storage, &raw mut copy, 1) };
    // SAFETY: the kernel has written the sender's address, of this length, to the storage.
    unsafe { SockAddr::new(copy, length) }.as_socket()
}

/// Largest number of datagrams that the kernel splits one buffer into (UDP_SEGMENT).
const SEGMENTS_MAX: usize = 64;
/// Largest size of such a buffer in bytes.
const SEGMENTS_SIZE_MAX: usize = 65_000;

/// Sends datagrams, and returns how many were sent. Consecutive datagrams with the same addresses
/// and length are sent as one buffer. An error is that of the first datagram.
pub(super) fn send(socket: BorrowedFd<'_>, messages: &[OutgoingMessage<'_>]) -> io::Result<usize> {
    let groups: Vec<&[OutgoingMessage<'_>]> = messages
        .chunk_by(|a, b| a.to == b.to && a.from == b.from && a.payload.len() == b.payload.len())
        .flat_map(|group| {
            let size = group[0].payload.len().max(1);
            group.chunks((SEGMENTS_SIZE_MAX / size).clamp(1, SEGMENTS_MAX))
        })
        .collect();
    match send_groups(socket, &groups) {
        // The kernel does not support segmentation, or a segment is longer than the path's MTU.
        // Single datagrams can be fragmented.
        Err(error) if groups[0].len() > 1 && is_segmentation_error(&error) => {
            send_groups(socket, &messages.chunks(1).collect::<Vec<_>>())
        }
        sent => sent,
    }
}

fn is_segmentation_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

/// Sends each group of datagrams with one header.
fn send_groups(socket: BorrowedFd<'_>, groups: &[&[OutgoingMessage<'_>]]) -> io::Result<usize> {
    let mut names: Vec<Option<SockAddr>> = groups
        .iter()
        .map(|group| group[0].to.map(Into::into))
        .collect();
    let mut controls = vec![ControlBuffer([0; CONTROL_SIZE]); groups.len()];
    let mut parts: Vec<libc::iovec> = groups
        .iter()
        .flat_map(|group| group.iter())
        .map(|message| libc::iovec {
            iov_base: message.payload.as_ptr().cast_mut().cast(),
            iov_len: message.payload.len(),
        })
        .collect();
    let mut rest = &mut parts[..];
    let mut headers = Vec::with_capacity(groups.len());
    for ((group, name), control) in groups.iter().zip(&mut names).zip(&mut controls) {
        let (own, others) = mem::take(&mut rest).split_at_mut(group.len());
        rest = others;
        let length = write_control_data(control, group);
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
    // SAFETY: each header points to a name or to none, a control buffer and its own parts, which
    // are all as long as the header says and outlive the call; the kernel writes to none of them.
    // `socket` is open as it is borrowed.
    let count = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            0,
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(groups[..count].iter().map(|group| group.len()).sum())
}

/// Writes the control data of a group: the source address, if given, and the segment size. Returns
/// its length in bytes.
fn write_control_data(control: &mut ControlBuffer, group: &[OutgoingMessage<'_>]) -> usize {
    let mut length = match group[0].from {
        Some(from) => write_source(control, from),
        None => 0,
    };
    if group.len() > 1 {
        let size = group[0].payload.len() as u16;
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
    // SAFETY: a header of zeros is valid. It is zeroed because some platforms have padding in it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name;
    header.msg_namelen = name_length;
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = control.cast();
    header.msg_controllen = control_length as _;
    header
}

/// The address at which a datagram arrived, from its control data.
fn own_address(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the header's control buffer is as long as it says, and the kernel has filled it.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: `control` points into that buffer, and the kernel writes only complete headers.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        // SAFETY: as above; the data follows the header.
        let data = unsafe { libc::CMSG_DATA(control) };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: this control data is an in_pktinfo, of any alignment.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in_pktinfo>()) };
                return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: this control data is an in6_pktinfo, of any alignment.
                let info = unsafe { ptr::read_unaligned(data.cast::<libc::in6_pktinfo>()) };
                return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: both arguments are as above.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}

/// Writes packet info with a datagram's source address. Returns its length in bytes.
fn write_source(control: &mut ControlBuffer, from: IpAddr) -> usize {
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

/// Writes one control message behind the first `used` bytes, which must be a multiple of the
/// alignment of `cmsghdr`. Returns its length in bytes, with padding.
fn write_control<T: Copy>(
    control: &mut ControlBuffer,
    used: usize,
    level: i32,
    kind: i32,
    value: T,
) -> usize {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: both only compute a length.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    assert!(used + space as usize <= CONTROL_SIZE);
    let header = control.0[used..].as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the buffer has room for the header and its data, as has just been asserted, and is
    // aligned for the header.
    unsafe {
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = length as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<T>(), value);
    }
    space as usize
}
