//! The second part of `bpf/sidetrack.h`: between the engine and the kernel programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    CGROUP_LEVELS_MAX, COMM_SIZE, CONTEXT_SIZE_MAX, EXECUTABLE_NAME_SIZE, Flow, NAME_SIZE,
};

/// A connect by the service itself, without records, is refused if a filter matches.
pub const RECORDS_REQUIRED: u32 = 0;
/// Such a connect is classified by all filters, except that redirects below the service's place are skipped.
pub const RECORDS_LEGACY: u32 = 1;
/// With [`RECORDS_REQUIRED`]: such a connect is classified by all filters, except that redirects are
/// skipped.
pub const OWN_TRAFFIC_PERMIT: u32 = 0x1;
/// A socket with records of this service may only go to the destination of their flow.
pub const RECORDS_BOUND: u32 = 0x2;

/// A service and its listeners. The engine writes the members up to `epoch`, the kernel programs the
/// others.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// The secret of [`Listen`](super::Listen).
    pub secret: [u8; 16],
    /// The object's UUID; zero if there is none.
    pub key: [u8; 16],
    /// Name that flows show.
    pub name: [u8; NAME_SIZE],
    /// [`RECORDS_REQUIRED`] or [`RECORDS_LEGACY`].
    pub records: u32,
    /// [`OWN_TRAFFIC_PERMIT`] and [`RECORDS_BOUND`], or 0.
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
    /// Those of the TCP listeners that are marked by [`LISTEN_PENDED`](super::LISTEN_PENDED).
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

/// A proxy's socket. The kernel programs write it; that of a sender of the daemon, the engine
/// does.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Socket {
    /// The flow whose records were set on it; 0 if none were.
    pub parent_id: u64,
    /// UDP listener: the flow that [`DATAGRAM`](super::DATAGRAM) selected; 0 if none.
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
    /// Listener: 1 if it was marked by [`LISTEN_PENDED`](super::LISTEN_PENDED).
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
    /// UDP: 1 once the service has asked for this flow. TCP: 1 once a RST to a pended flow's client was
    /// dropped.
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
    /// The flow as [`INFO`](super::INFO) returns it.
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
