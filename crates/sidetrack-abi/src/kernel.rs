//! The items of `bpf/sidetrack.h`. The header also documents errors, writers and sources.
//!
//! `__be16` is `[u8; 2]` here, so that no code can use a port without regard to its byte order.

mod policy;

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
/// Option, set on a listening socket: [`Listen`].
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

/// A connect by the service itself, without records, is refused if a filter matches.
pub const RECORDS_REQUIRED: u32 = 0;
/// Such a connect is classified by all filters, except that redirects below the service's place are skipped.
pub const RECORDS_LEGACY: u32 = 1;
/// With [`RECORDS_REQUIRED`]: such a connect is classified by all filters, except that redirects are
/// skipped.
pub const OWN_TRAFFIC_PERMIT: u32 = 0x1;
/// A socket with records of this service may only go to the destination of their flow.
pub const RECORDS_BOUND: u32 = 0x2;
/// The service's listeners may be marked by [`LISTEN_PENDED`].
pub const CONNECT_PENDED: u32 = 0x4;

/// A service and its listeners. The engine writes the members up to `epoch`, the kernel programs the
/// others.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// The secret of [`Listen`].
    pub secret: [u8; 16],
    /// The object's UUID; zero if there is none.
    pub key: [u8; 16],
    /// Name that flows show.
    pub name: [u8; NAME_SIZE],
    /// [`RECORDS_REQUIRED`] or [`RECORDS_LEGACY`].
    pub records: u32,
    /// [`OWN_TRAFFIC_PERMIT`], [`RECORDS_BOUND`] and [`CONNECT_PENDED`], or 0.
    pub flags: u32,
    /// Distinguishes the service from earlier ones of the same number.
    pub epoch: u32,
    /// Open TCP listeners of AF_INET.
    pub listeners4: u32,
    /// Open TCP listeners of AF_INET6.
    pub listeners6: u32,
    /// Their address; zero for the wildcard, so targets are spread over the loopback range.
    pub addr4: [u8; 4],
    /// Their port, in network order.
    pub port4: [u8; 2],
    /// Port of `addr6`, in network order.
    pub port6: [u8; 2],
    /// Address of the IPv6 listeners; zero for the wildcard, so the target is `::1`.
    pub addr6: [u8; 16],
    /// Open UDP sockets of AF_INET, bound to the wildcard address.
    pub datagrams4: u32,
    /// Open UDP sockets of AF_INET6, bound to the wildcard address.
    pub datagrams6: u32,
    /// Port of the IPv4 UDP sockets, in network order.
    pub datagram_port4: [u8; 2],
    /// Port of the IPv6 UDP sockets, in network order.
    pub datagram_port6: [u8; 2],
    /// Those of the TCP listeners that are marked by [`LISTEN_PENDED`].
    pub pended_listeners: u32,
}

/// A fixed redirect context.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Context {
    /// Number of bytes in use.
    pub length: u32,
    /// The context.
    pub bytes: [u8; CONTEXT_SIZE_MAX],
}

/// A bit in the key of an owner that the engine named from inside a PID namespace: the lower bits are
/// the process id in that namespace.
pub const OWNER_NAMED: u32 = 1 << 30;

/// A process that belongs to a service, together with its descendants in the same cgroup.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Owner {
    /// Start time in hundredths of a second since boot, as in `/proc/PID/stat`.
    pub started: u64,
    /// The cgroup in which it marked its listener, or was named.
    pub cgroup_id: u64,
    /// The service's number.
    pub service: u32,
    /// Open listeners that it marked; 0 if the engine named it.
    pub listeners: u32,
}

/// A cgroup that contains processes of services.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct OwnerCgroup {
    /// The service that all its processes belong to; 0 if there is none.
    pub service: u32,
    /// Number of processes in it that are owners themselves.
    pub owners: u32,
}

/// [`Socket::role`]: a raw socket by which a service completes and refuses its pended flows.
pub const SOCKET_SENDER: u32 = 3;

/// A proxy's socket. The engine writes that of a sender, the kernel programs the others.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Socket {
    /// The flow whose records were set on it; 0 if none were.
    pub parent_id: u64,
    /// UDP listener: the flow that [`DATAGRAM`] selected; 0 if none.
    pub datagram_flow_id: u64,
    /// As in [`Owner::started`], of the process that marked it.
    pub owner_started: u64,
    /// Listener, sender: cookie of its network namespace.
    pub netns_cookie: u64,
    /// The process that marked it; 0 if the engine did.
    pub owner_pid: u32,
    /// Listener, sender: number of its service.
    pub service: u32,
    /// [`SOCKET_SENDER`], or what only the kernel programs use.
    pub role: u32,
    /// Listener, sender: epoch of its service.
    pub epoch: u32,
    /// Listener: 1 if it was marked by [`LISTEN_PENDED`].
    pub pended: u32,
    /// Zero.
    pub reserved: u32,
}

/// A program, with the properties that conditions test.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Program {
    /// Inode of its executable.
    pub inode: u64,
    /// Id of its cgroup; 0 for the root.
    pub cgroup_id: u64,
    /// Ids of its cgroups from level 1 on; 0 where it is not so deep.
    pub cgroups: [u64; CGROUP_LEVELS_MAX],
    /// Device of its executable: major << 20 | minor.
    pub device: u32,
    /// Real user.
    pub uid: u32,
    /// [`PROGRAM_ELEVATED`], or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// The program's real, effective and saved user ids, or group ids, are not all the same.
pub const PROGRAM_ELEVATED: u32 = 0x1;

/// Shift of the flow's id in [`FlowEntry::state`].
pub const FLOW_STATE_ID_SHIFT: u32 = 20;
/// Shift of the flow's stage in [`FlowEntry::state`].
pub const FLOW_STATE_STAGE_SHIFT: u32 = 16;
/// Mask of the flow's stage, after the shift.
pub const FLOW_STATE_STAGE_MASK: u64 = 0xf;
/// Mask of the reference count in [`FlowEntry::state`].
pub const FLOW_STATE_REFCOUNT_MASK: u64 = 0xffff;

/// A kernel program is writing the entry.
pub const STAGE_FILLING: u64 = 1;
/// The SYN is sent, and no socket was accepted yet.
pub const STAGE_CONNECTING: u64 = 2;
/// A socket was accepted, and some socket refers to the flow.
pub const STAGE_ESTABLISHED: u64 = 3;
/// No socket refers to the flow; its token is valid for the grace period.
pub const STAGE_CLOSED: u64 = 4;
/// The connect was classified, and its SYN is not sent yet.
pub const STAGE_RESERVED: u64 = 5;
/// A UDP flow; the reference count counts proxies' sockets only.
pub const STAGE_DATAGRAM: u64 = 6;
/// The SYN is held until the service completes the flow, or the client gives up.
pub const STAGE_PENDED: u64 = 7;
/// The service has completed the flow: the client's next SYN is accepted.
pub const STAGE_COMPLETED: u64 = 8;

/// A slot: a flow with what only the kernel programs and the engine need.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FlowEntry {
    /// The flow's id, its stage (`STAGE_*`) and its reference count, in the bits of `FLOW_STATE_*`; 0 if
    /// the slot is free.
    pub state: u64,
    /// UDP: 1 once the service has asked for this flow.
    pub handed_over: u32,
    /// Never read: written to bring the slot into the processor's cache.
    pub prefetched: u32,
    /// When a reserved flow's connect was classified, when a closed flow's last socket closed, or when a
    /// UDP flow's last datagram was sent: CLOCK_MONOTONIC, nanoseconds.
    pub idle_since: u64,
    /// Key of its executable; 0 if there is none.
    pub executable_id: u64,
    /// Cookie of the client's socket; TCP: 0 once it has closed.
    pub client_cookie: u64,
    /// Address of the kernel's structure of the accepted socket; UDP: of the client's socket.
    pub socket_pointer: u64,
    /// Id of the parent flow; 0 if a program opened this one.
    pub parent_id: u64,
    /// TCP: the local end that getsockname returns to the client, written as in [`Flow`]. Until the end that
    /// the origin sees is known, the port is 0, and this is what the client's socket was bound to.
    pub name_addr: [u8; 16],
    /// Port of `name_addr`, in network order.
    pub name_port: [u8; 2],
    /// Zero.
    pub reserved: u16,
    /// TCP: sequence number of the client's SYN.
    pub sequence: u32,
    /// The flow as [`INFO`] returns it.
    pub flow: Flow,
    /// The original program.
    pub program: Program,
}

impl FlowEntry {
    /// Returns the id of the flow that has the slot; 0 if the slot is free.
    pub fn id(&self) -> u64 {
        self.state >> FLOW_STATE_ID_SHIFT
    }

    /// Returns the stage of this flow, `STAGE_*`; 0 if the slot is free.
    pub fn stage(&self) -> u64 {
        self.state >> FLOW_STATE_STAGE_SHIFT & FLOW_STATE_STAGE_MASK
    }
}

/// The four-tuple of a diverted connection, as seen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FourTuple {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Address of the client's socket.
    pub client_addr: [u8; 16],
    /// Where the connection was diverted to.
    pub target_addr: [u8; 16],
    /// Port of `client_addr`, in host order.
    pub client_port: u16,
    /// Port of `target_addr`, in network order.
    pub target_port: [u8; 2],
    /// Zero.
    pub reserved: u32,
}

/// The IPv4 address of the first slot of a flow; the others follow.
pub const SLOT_ADDRESS_FIRST: u32 = 0x7f01_0000;

/// The names of the counters that users see, by their index in the kernel's array.
pub const COUNTERS: [&str; 31] = [
    "redirected",
    "handed over",
    "queried",
    "linked",
    "absent, blocked",
    "absent, permitted",
    "chain too long",
    "records missing",
    "self-connect",
    "records stale",
    "bad token",
    "bad secret",
    "flows full",
    "flows lost",
    "grace cut",
    "events dropped",
    "blocked",
    "vetoed",
    "inspected",
    "search cut",
    "program unknown",
    "datagrams forged",
    "datagrams unrouted",
    "lost with proxy",
    "records bound",
    "pended",
    "completed",
    "pended, ended",
    "notices lost",
    "SYNs forged",
    "sender refused",
];

/// A record in the ring buffer of events.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// When it happened: CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Id of the filter that matched; 0 if none.
    pub filter_id: u64,
    /// Id of the connection's flow: for a diverted connection its own, otherwise the one whose
    /// records the socket has. 0 if there is none yet.
    pub flow_id: u64,
    /// `SIDETRACK_EVENT_*`, from 1.
    pub kind: u32,
    /// Number of the service that it is about; 0 if none.
    pub service: u32,
    /// Process of the program; 0 if unknown.
    pub pid: u32,
    /// User of the program.
    pub uid: u32,
    /// Where the connection goes; inbound: where it comes from.
    pub remote_addr: [u8; 16],
    /// Port of `remote_addr`, in network order.
    pub remote_port: [u8; 2],
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// Number of the layer that was classified.
    pub layer: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The other end, as far as it is known.
    pub local_addr: [u8; 16],
    /// Port of `local_addr`, in network order.
    pub local_port: [u8; 2],
    /// The lower 16 bits of the policy's generation.
    pub generation: u16,
    /// Zero.
    pub reserved2: u32,
    /// Task name of the program.
    pub comm: [u8; COMM_SIZE],
    /// Name of the program's executable, without folders.
    pub executable: [u8; EXECUTABLE_NAME_SIZE],
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
