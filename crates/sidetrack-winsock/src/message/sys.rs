//! recvmsg and sendmsg, with buffers of the caller that only the kernel accesses, and with the
//! library's own control data.

use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{io, ptr};

use crate::abi::{DWORD, WSABUF, WSAMSG};
use crate::error::{WSAEFAULT, WSAEINVAL, WSAEMSGSIZE, WinsockError, WinsockResult};
use crate::memory::{self, MemoryRange};
use crate::socket;

/// Largest number of parts of one message.
const PARTS_MAX: u32 = 1024;
/// Largest size of the caller's control data in bytes.
const CONTROL_MAX: usize = 65_536;
/// Size of the buffer for the kernel's control data, in bytes.
const KERNEL_CONTROL_SIZE: usize = 1024;
/// Size of the header of a control message: its length, level and type.
const HEADER_SIZE: usize = size_of::<libc::cmsghdr>();

/// One control message.
pub(super) struct ControlMessage {
    pub(super) level: i32,
    pub(super) kind: i32,
    pub(super) data: Vec<u8>,
}

/// A received datagram.
pub(super) struct ReceivedMessage {
    /// Length of the payload in bytes.
    pub(super) length: usize,
    /// MSG_TRUNC and MSG_CTRUNC.
    pub(super) flags: i32,
    /// Length of the sender's address in bytes, as the caller sees it.
    pub(super) name_length: usize,
    /// Address of the sender, if it is an IP address.
    pub(super) from: Option<SocketAddr>,
    /// Address at which the datagram arrived, if there is packet info.
    pub(super) own: Option<IpAddr>,
    /// The kernel's control data.
    pub(super) control: Vec<ControlMessage>,
}

/// A buffer for control data, aligned for `cmsghdr`.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// Receives into the parts and the name of the caller's message.
pub(super) fn receive(socket: i32, message: &WSAMSG, flags: i32) -> WinsockResult<ReceivedMessage> {
    let mut parts = parts(message)?;
    // SAFETY: zeros are a valid address, of no family.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut control = Aligned([0; KERNEL_CONTROL_SIZE]);
    let mut header = header(&mut parts);
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of_val(&name) as u32;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: name and control are local buffers of the given lengths. The kernel writes to the
    // parts, or refuses.
    let length = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
    let length = usize::try_from(length).map_err(|_| last_error())?;
    let control = parse_control(&control.0[..header.msg_controllen.min(KERNEL_CONTROL_SIZE)]);
    let name_length = write_name(message, &name, header.msg_namelen as usize)?;
    Ok(ReceivedMessage {
        length,
        flags: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC),
        name_length,
        from: address_of(&name),
        own: control.iter().find_map(packet_info_address),
        control,
    })
}

/// Sends the parts of the caller's message.
pub(super) fn send(
    socket: i32,
    message: &WSAMSG,
    to: Option<SocketAddr>,
    items: &[ControlMessage],
    flags: i32,
) -> WinsockResult<DWORD> {
    let mut parts = parts(message)?;
    let mut control = Vec::new();
    for item in items {
        append(&mut control, item);
    }
    let mut header = header(&mut parts);
    if to.is_some() {
        header.msg_name = message.name;
        header.msg_namelen = message.namelen as u32;
    }
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() * size_of::<u64>();
    }
    // SAFETY: the control data is a local buffer of the given length. Only the kernel reads name
    // and parts, or refuses.
    let sent = unsafe { libc::sendmsg(socket, &raw const header, flags | libc::MSG_NOSIGNAL) };
    u32::try_from(sent).map_err(|_| last_error())
}

fn last_error() -> WinsockError {
    WinsockError::from_errno(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn parts(message: &WSAMSG) -> WinsockResult<Vec<libc::iovec>> {
    if message.dwBufferCount > PARTS_MAX {
        return Err(WinsockError(WSAEMSGSIZE));
    }
    let part = |index| -> Option<libc::iovec> {
        let WSABUF { len, buf } = memory::read(message.lpBuffers.wrapping_add(index))?;
        Some(libc::iovec {
            iov_base: buf.cast(),
            iov_len: len as usize,
        })
    };
    let parts: Option<_> = (0..message.dwBufferCount as usize).map(part).collect();
    parts.ok_or(WinsockError(WSAEFAULT))
}

fn header(parts: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: a header of zeros is valid. It is zeroed because some platforms have padding in it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header
}

/// Copies the sender's address to the caller's buffer. Returns its length.
fn write_name(
    message: &WSAMSG,
    name: &libc::sockaddr_storage,
    length: usize,
) -> WinsockResult<usize> {
    let room = usize::try_from(message.namelen).unwrap_or(0);
    if message.name.is_null() || room == 0 {
        return Ok(0);
    }
    // SAFETY: the storage is longer than any address in it, and the length is limited to it.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            ptr::from_ref(name).cast::<u8>(),
            length.min(size_of_val(name)),
        )
    };
    let copied = bytes.len().min(room);
    match memory::copy_out(MemoryRange::of(message.name, copied), &bytes[..copied]) {
        true => Ok(length),
        false => Err(WinsockError(WSAEFAULT)),
    }
}

/// The destination of the caller's message. `None` if it has none, or if it is not an IP address.
pub(super) fn read_name(message: &WSAMSG) -> WinsockResult<Option<SocketAddr>> {
    if message.name.is_null() || message.namelen == 0 {
        return Ok(None);
    }
    let length = usize::try_from(message.namelen).map_err(|_| WinsockError(WSAEFAULT))?;
    let length = length.min(size_of::<libc::sockaddr_storage>());
    let bytes =
        memory::copy_in(MemoryRange::of(message.name, length)).ok_or(WinsockError(WSAEFAULT))?;
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    // SAFETY: the storage has room for `length` bytes, and any bytes are a valid value.
    let name = unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), name.as_mut_ptr().cast(), bytes.len());
        name.assume_init()
    };
    Ok(address_of(&name))
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a sockaddr_in, and the storage is aligned for
            // it.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family is a sockaddr_in6, and the storage is aligned for
            // it.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0).into())
        }
        _ => None,
    }
}

/// Splits a buffer of control data into its messages. An incomplete message at the end is dropped.
fn parse_control(mut bytes: &[u8]) -> Vec<ControlMessage> {
    let mut items = Vec::new();
    while bytes.len() >= HEADER_SIZE {
        // SAFETY: there are that many bytes, and a header has only integers.
        let head: libc::cmsghdr = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
        if head.cmsg_len < HEADER_SIZE || head.cmsg_len > bytes.len() {
            break;
        }
        items.push(ControlMessage {
            level: head.cmsg_level,
            kind: head.cmsg_type,
            data: bytes[HEADER_SIZE..head.cmsg_len].to_vec(),
        });
        bytes = bytes
            .get(head.cmsg_len.next_multiple_of(8)..)
            .unwrap_or(&[]);
    }
    items
}

/// Reads the caller's control data. Errors: WSAEFAULT, WSAEINVAL (more than 64 KiB).
pub(super) fn read_control(range: MemoryRange) -> WinsockResult<Vec<ControlMessage>> {
    if range.length > CONTROL_MAX {
        return Err(WinsockError(WSAEINVAL));
    }
    let bytes = memory::copy_in(range).ok_or(WinsockError(WSAEFAULT))?;
    Ok(parse_control(&bytes))
}

/// Appends one control message to a buffer of words, so that it is aligned.
fn append(control: &mut Vec<u64>, item: &ControlMessage) {
    let mut bytes = Vec::with_capacity(HEADER_SIZE + item.data.len() + 8);
    bytes.extend((HEADER_SIZE + item.data.len()).to_ne_bytes());
    bytes.extend(item.level.to_ne_bytes());
    bytes.extend(item.kind.to_ne_bytes());
    bytes.extend(&item.data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes.chunks_exact(8);
    control.extend(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())));
}

/// Writes control messages to the caller's buffer, as long as they fit completely.
pub(super) struct ControlWriter {
    space: MemoryRange,
    /// Number of bytes written.
    at: usize,
}

impl ControlWriter {
    pub(super) fn new(space: MemoryRange) -> Self {
        Self { space, at: 0 }
    }

    /// Writes one message. Returns false if it does not fit, or if the buffer cannot be written.
    pub(super) fn put(&mut self, item: &ControlMessage) -> bool {
        let mut words = Vec::new();
        append(&mut words, item);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // The last message of a buffer may lack its padding.
        let needed = HEADER_SIZE + item.data.len();
        let room = self.space.length.saturating_sub(self.at);
        if needed > room {
            return false;
        }
        let length = bytes.len().min(room);
        let to = MemoryRange {
            address: self.space.address + self.at,
            length,
        };
        let put = memory::copy_out(to, &bytes[..length]);
        if put {
            self.at += length;
        }
        put
    }

    /// Number of bytes written.
    pub(super) fn written(&self) -> usize {
        self.at
    }
}

/// The address at which a datagram arrived, if the message is packet info.
fn packet_info_address(item: &ControlMessage) -> Option<IpAddr> {
    match (item.level, item.kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let address: [u8; 4] = item.data.get(8..12)?.try_into().ok()?; // ipi_addr
            Some(Ipv4Addr::from(address).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let address: [u8; 16] = item.data.get(..16)?.try_into().ok()?; // ipi6_addr
            Some(Ipv6Addr::from(address).into())
        }
        _ => None,
    }
}

/// Packet info with the source address of a datagram.
pub(super) fn packet_info(from: IpAddr) -> ControlMessage {
    match from {
        IpAddr::V4(v4) => ControlMessage {
            level: libc::IPPROTO_IP,
            kind: libc::IP_PKTINFO,
            data: [&[0; 4], &v4.octets()[..], &[0; 4]].concat(), // ipi_spec_dst
        },
        IpAddr::V6(v6) => ControlMessage {
            level: libc::IPPROTO_IPV6,
            kind: libc::IPV6_PKTINFO,
            data: [&v6.octets()[..], &[0; 4]].concat(),
        },
    }
}

pub(super) fn is_udp(socket: i32) -> bool {
    socket::protocol(socket) == libc::IPPROTO_UDP
}

/// Makes the kernel add packet info to each received datagram.
pub(super) fn enable_packet_info(socket: i32) -> Result<(), i32> {
    let one = 1_i32.to_ne_bytes();
    match socket::is_ipv4(socket) {
        true => socket::set_value(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &one),
        false => socket::set_value(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &one),
    }
}

/// Whether the socket is bound to a port.
pub(super) fn is_bound(socket: i32) -> bool {
    // SAFETY: zeros are a valid address, of no family.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = size_of_val(&name) as u32;
    // SAFETY: both are local variables, and the length is that of `name`.
    let result = unsafe { libc::getsockname(socket, (&raw mut name).cast(), &raw mut length) };
    result == 0 && address_of(&name).is_some_and(|address| address.port() != 0)
}
