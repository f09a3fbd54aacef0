//! The items of `bpf/sidetrack.h`. The header also documents errors, writers and sources.
//!
//! `__be16` is `[u8; 2]` here, so that no code can use a port without regard to its byte order.

mod engine;
mod policy;

pub use engine::*;
pub use policy::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the options' structures and of everything else in this module.
pub const ABI_VERSION: u32 = 3;

/// Level of the socket options: "ST".
pub const SOL_SIDETRACK: i32 = 0x5354;
/// Option, get: [`Info`], then the context if there is room.
pub const INFO: i32 = 1;
/// Option, get: the redirect context.
pub const CONTEXT: i32 = 2;
/// Option, get; and set, before connect: [`Records`].
pub const RECORDS: i32 = 3;
/// Option, set on a listening socket, or on a raw one, which becomes a sender: [`Listen`].
pub const LISTEN: i32 = 4;
/// Option, set on a marked UDP socket: [`Datagram`].
pub const DATAGRAM: i32 = 5;
/// Option, set on a listening TCP socket: [`Listen`]. As [`LISTEN`], and its connects are pended.
pub const LISTEN_PENDED: i32 = 6;
/// Option, set on a marked TCP listener: [`Complete`].
pub const COMPLETE: i32 = 7;

/// Services in the chain of one connection; the next redirection is refused.
pub const CHAIN_MAX: usize = 16;
/// Bytes of a redirect context.
pub const CONTEXT_SIZE_MAX: usize = 4000;
/// Bytes of a service's name, including the ending NUL.
pub const NAME_SIZE: usize = 32;
/// Bytes of an executable's path, including the ending NUL.
pub const EXECUTABLE_SIZE: usize = 248;
/// Bytes of a task's name.
pub const COMM_SIZE: usize = 16;
/// Bytes of an executable's name in events, including the ending NUL; a longer one is cut.
pub const EXECUTABLE_NAME_SIZE: usize = 32;
/// Service numbers of one engine; number 0 means no service.
pub const SERVICES_MAX: usize = 256;
/// Different fixed contexts of one engine.
pub const CONTEXTS_MAX: usize = 256;
/// Processes that are known to belong to a service.
pub const OWNERS_MAX: usize = 1024;
/// Processes examined to find the owner of a socket: the caller, its parent, and so on.
pub const ANCESTORS_MAX: usize = 16;
/// Executables whose paths are kept.
pub const EXECUTABLES_MAX: usize = 4096;
/// Flows of one engine, unless the engine sets another number.
pub const FLOWS_MAX: u32 = 65_536;
/// Connecting flows that are found by their four-tuple.
pub const FOUR_TUPLES_MAX: u32 = 16_384;
/// The grace period: nanoseconds for which a token outlives the last socket of its flow.
pub const GRACE_NS: u64 = 60_000_000_000;
/// The idle time-out: nanoseconds without a datagram after which the flow of an unconnected UDP
/// socket ends.
pub const IDLE_NS: u64 = 60_000_000_000;
/// Bytes of a service's ring buffer of notices.
pub const NOTICES_SIZE: u32 = 2_097_152;
/// Entries of the verdict cache.
pub const VERDICT_CACHE_MAX: u32 = 8_192;
/// Network namespaces that have IPv6 addresses for one engine's flows.
pub const NETWORKS_MAX: u32 = 64;

/// The redirect records: an opaque token. Copy it byte for byte, and never interpret it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Records {
    /// Id of the flow.
    pub flow_id: u64,
    /// Id of the engine that made the token.
    pub engine_id: u64,
    /// SipHash-2-4 (128 bits) of the flow id under the engine's key.
    pub mac: [u8; 16],
}

/// The credentials that mark a listening socket as a service's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Listen {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// The service's number.
    pub service: u32,
    /// Id of the engine.
    pub engine_id: u64,
    /// The service's secret.
    pub secret: [u8; 16],
}

impl Listen {
    /// Reads credentials of 64 hexadecimal digits. `None` if `text` is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; size_of::<Self>()];
        if text.len() != 2 * bytes.len() || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Self::read_from_bytes(&bytes).ok()
    }
}

/// Selects the datagram that the next option is about. Addresses are written as in [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    /// The address at which the datagram arrived.
    pub flow_addr: [u8; 16],
    /// The address from which it came.
    pub client_addr: [u8; 16],
    /// The port from which it came, in network order.
    pub client_port: [u8; 2],
    /// Zero.
    pub reserved: [u16; 3],
}

/// Completes a pended flow: the next SYN of its client is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Complete {
    /// The flow's records.
    pub records: Records,
    /// The local end of the outgoing connection, written as in [`Flow`].
    pub local_addr: [u8; 16],
    /// Port of `local_addr`, in network order; 0 if none is given.
    pub local_port: [u8; 2],
    /// Zero.
    pub reserved: [u16; 3],
}

/// [`Notice::kind`]: a SYN is held.
pub const NOTICE_SYN: u32 = 1;
/// [`Notice::kind`]: the client of a held flow has given up, was reset, or has closed.
pub const NOTICE_GONE: u32 = 2;
/// Largest number of bytes of a TCP header.
pub const TCP_HEADER_MAX: usize = 60;

/// A record in a service's ring buffer. Addresses are written as in [`Flow`]; those of the packet are
/// IPv4 if both are IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Notice {
    /// [`NOTICE_SYN`] or [`NOTICE_GONE`].
    pub kind: u32,
    /// Bytes of `tcp` in use: 20 to 60; 0 for [`NOTICE_GONE`].
    pub tcp_length: u32,
    /// The flow's records, which contain its id.
    pub records: Records,
    /// As in [`Flow::connected_at`].
    pub connected_at: u64,
    /// Where the connection was going.
    pub remote_addr: [u8; 16],
    /// Source of the SYN.
    pub client_addr: [u8; 16],
    /// Destination of the SYN: the listener.
    pub target_addr: [u8; 16],
    /// Port of `remote_addr`, in network order.
    pub remote_port: [u8; 2],
    /// Zero.
    pub reserved: u16,
    /// The SYN's TCP header, with its options.
    pub tcp: [u8; TCP_HEADER_MAX],
}

/// A redirected connection, or UDP conversation.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Id of this flow.
    pub id: u64,
    /// Id of the chain's first flow; the same at every service.
    pub origin_id: u64,
    /// Id of the filter that redirected.
    pub filter_id: u64,
    /// When it began: CLOCK_MONOTONIC, nanoseconds.
    pub connected_at: u64,
    /// Cookie of the network namespace of the client's socket.
    pub netns_cookie: u64,
    /// Cgroup of the original program.
    pub cgroup_id: u64,
    /// Process (thread group) of the original program; 0 if it is outside of the engine's PID
    /// namespace.
    pub pid: u32,
    /// Real user of the original program.
    pub uid: u32,
    /// Real group of the original program.
    pub gid: u32,
    /// The process that opened this hop: the original program, or a proxy.
    pub opener_pid: u32,
    /// The device that the client's socket was bound to; 0 if none.
    pub bound_ifindex: u32,
    /// [`FLOW_CHAIN_ASSUMED`], [`FLOW_CONNECTED`], [`FLOW_PENDED`].
    pub flags: u32,
    /// Where the connection was going.
    pub remote_addr: [u8; 16],
    /// Address of the client's socket.
    pub local_addr: [u8; 16],
    /// Port of `remote_addr`, in network order.
    pub remote_port: [u8; 2],
    /// Port of `local_addr`, in network order.
    pub local_port: [u8; 2],
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// AF_INET or AF_INET6, of the addresses (IPv4-mapped is AF_INET).
    pub family: u8,
    /// Number of services in the chain.
    pub chain_length: u16,
    /// Numbers of the services, in order; this one is last.
    pub chain: [u16; CHAIN_MAX],
    /// 0: no context; [`CONTEXT_AUTO`]; or a fixed context's number.
    pub context_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Task name of the original program.
    pub comm: [u8; COMM_SIZE],
}

/// The chain contains a legacy proxy: the services before it are inferred from the policy.
pub const FLOW_CHAIN_ASSUMED: u32 = 0x1;
/// UDP: the client called connect.
pub const FLOW_CONNECTED: u32 = 0x2;
/// TCP: the SYN was held until the service completed the flow.
pub const FLOW_PENDED: u32 = 0x4;
/// The [`Flow::context_id`] of a filter whose context is made from the flow.
pub const CONTEXT_AUTO: u32 = u32::MAX;

/// The executable of the original program; all zero if it is no longer kept.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Executable {
    /// Inode of the file.
    pub inode: u64,
    /// Device of the file, as the kernel numbers devices: major << 20 | minor.
    pub device: u32,
    /// [`EXECUTABLE_CUT`].
    pub flags: u32,
    /// Path as the kernel saw it at connect; ends with NUL.
    pub path: [u8; EXECUTABLE_SIZE],
}

/// The path is longer: only its tail is given.
pub const EXECUTABLE_CUT: u32 = 0x1;

/// There is no redirect record (docs/wfp.md, 3.2.1).
pub const NOT_REDIRECTED: u32 = 0;
/// The latest redirection was to this service (docs/wfp.md, 3.2.2).
pub const REDIRECTED_BY_SELF: u32 = 1;
/// The latest redirection was to another service, and this one is not in the chain
/// (docs/wfp.md, 3.2.3).
pub const REDIRECTED_BY_OTHER: u32 = 2;
/// This service is in the chain, and a later redirection was to another one
/// (docs/wfp.md, 3.2.4).
pub const PREVIOUSLY_REDIRECTED_BY_SELF: u32 = 3;

/// The answer to [`INFO`]. If the buffer has room for the context as well, it follows directly.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Info {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Bytes of this struct: the offset of the context.
    pub size: u32,
    /// Always [`REDIRECTED_BY_SELF`]: otherwise the option fails.
    pub state: u32,
    /// Bytes of the context; 0 if there is none.
    pub context_length: u32,
    /// 1 if the context follows this struct.
    pub context_given: u32,
    /// Bytes of the records.
    pub records_length: u32,
    /// Where the connection was diverted to: the address of the accepted socket, the listener, or the UDP
    /// flow.
    pub target_addr: [u8; 16],
    /// Port of `target_addr`, in network order.
    pub target_port: [u8; 2],
    /// Zero.
    pub reserved: [u16; 3],
    /// The redirected connection.
    pub flow: Flow,
    /// The executable of the original program.
    pub executable: Executable,
    /// The records of the flow.
    pub records: Records,
    /// Names of the chain's services, in order.
    pub names: [[u8; NAME_SIZE]; CHAIN_MAX],
}

/// The context that is given by a filter with an automatic context.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct AutoContext {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Bytes of this struct.
    pub size: u32,
    /// As in [`Flow::id`].
    pub flow_id: u64,
    /// As in [`Flow::remote_addr`].
    pub remote_addr: [u8; 16],
    /// As in [`Flow::remote_port`].
    pub remote_port: [u8; 2],
    /// As in [`Flow::protocol`].
    pub protocol: u8,
    /// As in [`Flow::family`].
    pub family: u8,
    /// As in [`Flow::pid`].
    pub pid: u32,
    /// As in [`Flow::uid`].
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
    /// As in [`Executable::path`].
    pub executable: [u8; EXECUTABLE_SIZE],
}

const _: () = {
    assert!(size_of::<Records>() == 32);
    assert!(size_of::<Listen>() == 32);
    assert!(size_of::<Datagram>() == 40);
    assert!(size_of::<Flow>() == 168);
    assert!(size_of::<Complete>() == 56);
    assert!(size_of::<Notice>() == 160);
    assert!(size_of::<Info>() == 1024);
    assert!(size_of::<AutoContext>() == 296);
    assert!(size_of::<Service>() == 124);
    assert!(size_of::<Event>() == 136);
    assert!(size_of::<FlowEntry>() == 344);
};
