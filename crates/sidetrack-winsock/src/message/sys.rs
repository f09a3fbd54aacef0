//! recvmsg and sendmsg with the caller's buffers, which only the kernel touches, and control data of our own.

use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{io, ptr};

use crate::abi::{DWORD, WSABUF, WSAMSG};
use crate::error::{Fault, Reply, WSAEFAULT, WSAEINVAL, WSAEMSGSIZE};
use crate::memory::{self, Span};
use crate::socket;

/// Parts of one message.
const PARTS_MAX: u32 = 1024;
/// Bytes of control data, given or received.
const CONTROL_MAX: usize = 65_536;
/// Bytes of the control data that the kernel may give.
const KERNEL_CONTROL: usize = 1024;
/// A control message's head: its length, level and type.
const HEAD: usize = size_of::<libc::cmsghdr>();

/// One control message.
pub(super) struct ControlItem {
    pub(super) level: i32,
    pub(super) kind: i32,
    pub(super) data: Vec<u8>,
}

/// A datagram that has come.
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) flags: i32,
    pub(super) name_length: usize,
    pub(super) from: Option<SocketAddr>,
    pub(super) own: Option<IpAddr>,
    pub(super) control: Vec<ControlItem>,
}

#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// Receives into the message's parts and name.
pub(super) fn receive(socket: i32, message: &WSAMSG, flags: i32) -> Reply<Received> {
    let mut parts = parts(message)?;
    // SAFETY: zeros are a valid address of no family.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut control = Aligned([0; KERNEL_CONTROL]);
    let mut header = header(&mut parts);
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of_val(&name) as u32;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: name and control are ours and as long as said; where the parts are, the kernel writes or refuses.
    let length = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
    let length = usize::try_from(length).map_err(|_| last_fault())?;
    let control = items(&control.0[..header.msg_controllen.min(KERNEL_CONTROL)]);
    let name_length = write_name(message, &name, header.msg_namelen as usize)?;
    Ok(Received {
        length,
        flags: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC),
        name_length,
        from: address_of(&name),
        own: control.iter().find_map(own_address),
        control,
    })
}

/// Sends the message's parts.
pub(super) fn send(
    socket: i32,
    message: &WSAMSG,
    to: Option<SocketAddr>,
    items: &[ControlItem],
    flags: i32,
) -> Reply<DWORD> {
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
    // SAFETY: the control data is ours and as long as said; name and parts only the kernel reads, or refuses.
    let sent = unsafe { libc::sendmsg(socket, &raw const header, flags | libc::MSG_NOSIGNAL) };
    u32::try_from(sent).map_err(|_| last_fault())
}

fn last_fault() -> Fault {
    Fault::of_errno(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn parts(message: &WSAMSG) -> Reply<Vec<libc::iovec>> {
    if message.dwBufferCount > PARTS_MAX {
        return Err(Fault(WSAEMSGSIZE));
    }
    let part = |index| -> Option<libc::iovec> {
        let WSABUF { len, buf } = memory::load(message.lpBuffers.wrapping_add(index))?;
        Some(libc::iovec {
            iov_base: buf.cast(),
            iov_len: len as usize,
        })
    };
    let parts: Option<_> = (0..message.dwBufferCount as usize).map(part).collect();
    parts.ok_or(Fault(WSAEFAULT))
}

fn header(parts: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: a header of zeros is a valid one; some platforms pad it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header
}

/// Copies the sender's address to where the caller wants it. Returns its length.
fn write_name(message: &WSAMSG, name: &libc::sockaddr_storage, length: usize) -> Reply<usize> {
    let room = usize::try_from(message.namelen).unwrap_or(0);
    if message.name.is_null() || room == 0 {
        return Ok(0);
    }
    // SAFETY: the storage is longer than any address in it.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            ptr::from_ref(name).cast::<u8>(),
            length.min(size_of_val(name)),
        )
    };
    let copied = bytes.len().min(room);
    match memory::put(Span::of(message.name, copied), &bytes[..copied]) {
        true => Ok(length),
        false => Err(Fault(WSAEFAULT)),
    }
}

/// Where the message goes. `None` if it names nobody.
pub(super) fn read_name(message: &WSAMSG) -> Reply<Option<SocketAddr>> {
    if message.name.is_null() || message.namelen == 0 {
        return Ok(None);
    }
    let length = usize::try_from(message.namelen).map_err(|_| Fault(WSAEFAULT))?;
    let length = length.min(size_of::<libc::sockaddr_storage>());
    let bytes = memory::get(Span::of(message.name, length)).ok_or(Fault(WSAEFAULT))?;
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    // SAFETY: the storage has room for `length` bytes, and any bytes are a valid one.
    let name = unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), name.as_mut_ptr().cast(), bytes.len());
        name.assume_init()
    };
    Ok(address_of(&name))
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a sockaddr_in, and the storage is aligned for it.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: likewise a sockaddr_in6.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0).into())
        }
        _ => None,
    }
}

/// Control data as it lies in a buffer; what is cut is left out.
fn items(mut bytes: &[u8]) -> Vec<ControlItem> {
    let mut items = Vec::new();
    while bytes.len() >= HEAD {
        // SAFETY: there are that many bytes, and a head is integers only.
        let head: libc::cmsghdr = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
        if head.cmsg_len < HEAD || head.cmsg_len > bytes.len() {
            break;
        }
        items.push(ControlItem {
            level: head.cmsg_level,
            kind: head.cmsg_type,
            data: bytes[HEAD..head.cmsg_len].to_vec(),
        });
        bytes = bytes
            .get(head.cmsg_len.next_multiple_of(8)..)
            .unwrap_or(&[]);
    }
    items
}

/// The caller's control data. Errors: WSAEFAULT, WSAEINVAL (over 64 KiB).
pub(super) fn read_control(span: Span) -> Reply<Vec<ControlItem>> {
    if span.length > CONTROL_MAX {
        return Err(Fault(WSAEINVAL));
    }
    let bytes = memory::get(span).ok_or(Fault(WSAEFAULT))?;
    Ok(items(&bytes))
}

/// Appends one control message, in words so that it is aligned.
fn append(control: &mut Vec<u64>, item: &ControlItem) {
    let mut bytes = Vec::with_capacity(HEAD + item.data.len() + 8);
    bytes.extend((HEAD + item.data.len()).to_ne_bytes());
    bytes.extend(item.level.to_ne_bytes());
    bytes.extend(item.kind.to_ne_bytes());
    bytes.extend(&item.data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes.chunks_exact(8);
    control.extend(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())));
}

/// Writes control messages to the caller's buffer, as far as they fit whole.
pub(super) struct ControlWriter {
    space: Span,
    at: usize,
}

impl ControlWriter {
    pub(super) fn new(space: Span) -> Self {
        Self { space, at: 0 }
    }

    /// False if it has no room, or the buffer is bad.
    pub(super) fn put(&mut self, item: &ControlItem) -> bool {
        let mut words = Vec::new();
        append(&mut words, item);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // The last one may lack its padding.
        let needed = HEAD + item.data.len();
        let room = self.space.length.saturating_sub(self.at);
        if needed > room {
            return false;
        }
        let length = bytes.len().min(room);
        let to = Span {
            address: self.space.address + self.at,
            length,
        };
        let put = memory::put(to, &bytes[..length]);
        if put {
            self.at += length;
        }
        put
    }

    pub(super) fn written(&self) -> usize {
        self.at
    }
}

/// The address a datagram came to.
fn own_address(item: &ControlItem) -> Option<IpAddr> {
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

/// Names a datagram's source.
pub(super) fn source_item(from: IpAddr) -> ControlItem {
    match from {
        IpAddr::V4(v4) => ControlItem {
            level: libc::IPPROTO_IP,
            kind: libc::IP_PKTINFO,
            data: [&[0; 4], &v4.octets()[..], &[0; 4]].concat(), // ipi_spec_dst
        },
        IpAddr::V6(v6) => ControlItem {
            level: libc::IPPROTO_IPV6,
            kind: libc::IPV6_PKTINFO,
            data: [&v6.octets()[..], &[0; 4]].concat(),
        },
    }
}

pub(super) fn is_udp(socket: i32) -> bool {
    socket::protocol(socket) == libc::IPPROTO_UDP
}

/// From now on each datagram tells where it came to.
pub(super) fn ask_for_own_address(socket: i32) -> Result<(), i32> {
    let one = 1_i32.to_ne_bytes();
    match socket::local_is_v4(socket) {
        true => socket::set_value(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &one),
        false => socket::set_value(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &one),
    }
}

/// Whether it is bound.
pub(super) fn has_port(socket: i32) -> bool {
    // SAFETY: zeros are a valid address of no family.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = size_of_val(&name) as u32;
    // SAFETY: both are ours, and as long as said.
    let result = unsafe { libc::getsockname(socket, (&raw mut name).cast(), &raw mut length) };
    result == 0 && address_of(&name).is_some_and(|address| address.port() != 0)
}
