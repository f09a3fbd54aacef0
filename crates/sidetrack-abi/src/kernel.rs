//! `bpf/sidetrack.h`, item by item. Meanings, errors and writers are documented there.
//!
//! `__be16` is `[u8; 2]` here, so that a port cannot be used without a thought for its order.

mod policy;

pub use policy::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Of the options' structures and of everything below.
pub const ABI_VERSION: u32 = 2;

/// The socket options' level: "ST".
pub const SOL_SIDETRACK: i32 = 0x5354;
/// get: [`Info`], then the context if there is room.
pub const INFO: i32 = 1;
/// get: the redirect context.
pub const CONTEXT: i32 = 2;
/// get, and set before connect: [`Records`].
pub const RECORDS: i32 = 3;
/// set, on a listening socket: [`Listen`].
pub const LISTEN: i32 = 4;
/// set, on a marked UDP socket: [`Datagram`].
pub const DATAGRAM: i32 = 5;

/// Services one connection may pass; the next is refused.
pub const CHAIN_MAX: usize = 16;
/// Bytes of a redirect context.
pub const CONTEXT_SIZE_MAX: usize = 4000;
/// Bytes of a service's name, ending NUL included.
pub const NAME_SIZE: usize = 32;
/// Bytes of an executable's path, ending NUL included.
pub const EXECUTABLE_SIZE: usize = 248;
/// Bytes of a task's name.
pub const COMM_SIZE: usize = 16;
/// Services of one engine; number 0 means none.
pub const SERVICES_MAX: usize = 256;
/// Different fixed contexts of one engine.
pub const CONTEXTS_MAX: usize = 256;
/// Processes known to belong to a service.
pub const OWNERS_MAX: usize = 1024;
/// Parents looked at to find a service's process.
pub const ANCESTORS_MAX: usize = 16;
/// Programs' files that an engine remembers.
pub const EXECUTABLES_MAX: usize = 4096;
/// Flows of one engine, unless the engine says otherwise.
pub const FLOWS_MAX: u32 = 65_536;
/// Flows in the making that are found by their four-tuple.
pub const FOUR_TUPLES_MAX: u32 = 16_384;
/// How long a token outlives its flow's last socket, in nanoseconds.
pub const GRACE_NS: u64 = 60_000_000_000;
/// How long the flow of an unconnected socket lasts without a datagram, in nanoseconds.
pub const IDLE_NS: u64 = 60_000_000_000;
/// Destinations of unredirected datagrams remembered.
pub const VERDICT_CACHE_MAX: u32 = 8_192;
/// Network namespaces that have the IPv6 addresses of one engine's flows.
pub const NETWORKS_MAX: u32 = 64;

/// The redirect records: an opaque token, to be copied byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Records {
    /// Names the flow.
    pub flow_id: u64,
    /// Names the engine that made it.
    pub engine_id: u64,
    /// SipHash-2-4 (128 bits) of the flow id under the engine's key.
    pub mac: [u8; 16],
}

/// Makes a listening socket one of a service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Listen {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// The service's number.
    pub service: u32,
    /// Names the engine.
    pub engine_id: u64,
    /// The service's secret.
    pub secret: [u8; 16],
}

/// Which datagram the next question is about. Addresses as in [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    /// Where it came to.
    pub flow_addr: [u8; 16],
    /// Where it came from.
    pub client_addr: [u8; 16],
    /// Network order.
    pub client_port: [u8; 2],
    /// Zero.
    pub reserved: [u16; 3],
}

/// A redirected connection.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// This hop.
    pub id: u64,
    /// The chain's first hop; the same at every service.
    pub origin_id: u64,
    /// The filter that redirected.
    pub filter_id: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub connected_at: u64,
    /// The client socket's network namespace.
    pub netns_cookie: u64,
    /// Of the original program.
    pub cgroup_id: u64,
    /// Of the original program (thread group).
    pub pid: u32,
    /// Of the original program.
    pub uid: u32,
    /// Of the original program.
    pub gid: u32,
    /// The process that opened this hop.
    pub opener_pid: u32,
    /// The device the client socket was bound to; 0 if none.
    pub bound_ifindex: u32,
    /// [`FLOW_CHAIN_ASSUMED`], [`FLOW_CONNECTED`].
    pub flags: u32,
    /// Where the connection was going.
    pub remote_addr: [u8; 16],
    /// The client socket's own address.
    pub local_addr: [u8; 16],
    /// Network order.
    pub remote_port: [u8; 2],
    /// Network order.
    pub local_port: [u8; 2],
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// Services in the chain, this one last.
    pub chain_length: u16,
    /// The services' numbers, in order.
    pub chain: [u16; CHAIN_MAX],
    /// 0 none, [`CONTEXT_AUTO`], else a fixed context.
    pub context_id: u32,
    /// Zero.
    pub reserved: u32,
    /// The original program's task name.
    pub comm: [u8; COMM_SIZE],
}

/// A legacy proxy is in the chain: what stands before it is inferred.
pub const FLOW_CHAIN_ASSUMED: u32 = 0x1;
/// Datagrams: the client called connect.
pub const FLOW_CONNECTED: u32 = 0x2;
/// [`Flow::context_id`] of a filter whose context is made from the flow.
pub const CONTEXT_AUTO: u32 = u32::MAX;

/// The file of the program that opened the chain's first connection; all zero if forgotten.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Executable {
    /// Of the file.
    pub inode: u64,
    /// As the kernel numbers devices: major << 20 | minor.
    pub device: u32,
    /// [`EXECUTABLE_CUT`].
    pub flags: u32,
    /// As the kernel saw it at connect.
    pub path: [u8; EXECUTABLE_SIZE],
}

/// The path was longer; its tail is given.
pub const EXECUTABLE_CUT: u32 = 0x1;

/// No redirect record (spec 3.2, state 0).
pub const NOT_REDIRECTED: u32 = 0;
/// The latest redirection is this service's (state 1).
pub const REDIRECTED_BY_SELF: u32 = 1;
/// The latest redirection is another's, and this service is not in the chain (state 2).
pub const REDIRECTED_BY_OTHER: u32 = 2;
/// This service is in the chain, and another redirected after it (state 3).
pub const PREVIOUSLY_REDIRECTED_BY_SELF: u32 = 3;

/// The answer to [`INFO`]; the context follows at once if the buffer has room for it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Info {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Of this struct; the context starts here.
    pub size: u32,
    /// [`REDIRECTED_BY_SELF`].
    pub state: u32,
    /// Bytes; 0 if there is none.
    pub context_length: u32,
    /// 1 if the context follows this struct.
    pub context_given: u32,
    /// Bytes.
    pub records_length: u32,
    /// Where it was diverted to: the accepted socket's own address.
    pub target_addr: [u8; 16],
    /// Network order.
    pub target_port: [u8; 2],
    /// Zero.
    pub reserved: [u16; 3],
    /// The connection.
    pub flow: Flow,
    /// The program's file.
    pub executable: Executable,
    /// The token.
    pub records: Records,
    /// Names of the chain's services, in order.
    pub names: [[u8; NAME_SIZE]; CHAIN_MAX],
}

/// The context that a filter with an automatic context gives.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct AutoContext {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Of this struct.
    pub size: u32,
    /// As in [`Flow::id`].
    pub flow_id: u64,
    /// As in [`Flow`].
    pub remote_addr: [u8; 16],
    /// Network order.
    pub remote_port: [u8; 2],
    /// As in [`Flow`].
    pub protocol: u8,
    /// As in [`Flow`].
    pub family: u8,
    /// As in [`Flow`].
    pub pid: u32,
    /// As in [`Flow`].
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
    /// As in [`Executable`].
    pub executable: [u8; EXECUTABLE_SIZE],
}

/// A connect of the service's own without records is blocked.
pub const RECORDS_REQUIRED: u32 = 0;
/// It is judged from behind the service's place.
pub const RECORDS_LEGACY: u32 = 1;
/// Required: let such a connect go straight on.
pub const OWN_TRAFFIC_PERMIT: u32 = 0x1;

/// A service and its listeners; the kernel writes from `listeners4` on.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// What [`Listen`] must bring.
    pub secret: [u8; 16],
    /// The object's UUID; zero if there is none.
    pub key: [u8; 16],
    /// Shown in flows.
    pub name: [u8; NAME_SIZE],
    /// [`RECORDS_REQUIRED`] or [`RECORDS_LEGACY`].
    pub records: u32,
    /// [`OWN_TRAFFIC_PERMIT`].
    pub flags: u32,
    /// Tells it from an earlier service of the same number.
    pub epoch: u32,
    /// Open listeners that take IPv4.
    pub listeners4: u32,
    /// Open listeners that take IPv6.
    pub listeners6: u32,
    /// Zero: any address of the loopback range.
    pub addr4: [u8; 4],
    /// Network order.
    pub port4: [u8; 2],
    /// Network order.
    pub port6: [u8; 2],
    /// All zero: `::1`.
    pub addr6: [u8; 16],
    /// Open UDP sockets that take IPv4, at any address.
    pub datagrams4: u32,
    /// Likewise IPv6.
    pub datagrams6: u32,
    /// Network order.
    pub datagram_port4: [u8; 2],
    /// Network order.
    pub datagram_port6: [u8; 2],
}

/// A fixed redirect context.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Context {
    /// Bytes in use.
    pub length: u32,
    /// The context.
    pub bytes: [u8; CONTEXT_SIZE_MAX],
}

/// In an owner's key: what follows is its number in the engine's namespace; the engine named it.
pub const OWNER_NAMED: u32 = 1 << 30;

/// A process that belongs to a service, with its descendants in the same cgroup.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Owner {
    /// In hundredths of a second since boot, as in `/proc/PID/stat`.
    pub started: u64,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// The service's number.
    pub service: u32,
    /// That it marked and that are open; 0 if the engine named it.
    pub listeners: u32,
}

/// A cgroup in which processes of services are.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct OwnerCgroup {
    /// Whose all its processes are; 0 if nobody's.
    pub service: u32,
    /// Processes in it that are owners by themselves.
    pub owners: u32,
}

/// A program, as conditions ask about it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Program {
    /// Of its executable.
    pub inode: u64,
    /// 0: the root.
    pub cgroup_id: u64,
    /// From level 1 on; 0: not so deep.
    pub cgroups: [u64; CGROUP_LEVELS_MAX],
    /// Of its executable: major << 20 | minor.
    pub device: u32,
    /// Real user.
    pub uid: u32,
}

/// A flow's slot.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FlowEntry {
    /// Id << 20 | stage << 16 | ties; 0: free.
    pub state: u64,
    /// Datagrams: the service has asked about it.
    pub handed_over: u32,
    /// Nothing: who takes a slot writes it in the next one, which is in the processor's cache then.
    pub prefetched: u32,
    /// Or called at, or last datagram at. CLOCK_MONOTONIC, nanoseconds.
    pub closed_at: u64,
    /// Its number among the executables.
    pub executable: u64,
    /// The client socket's cookie; 0 once that has closed (TCP).
    pub client: u64,
    /// Where the kernel keeps the accepted socket; datagrams: the client's.
    pub socket: u64,
    /// Datagrams: the flow of the proxy that goes on here; 0 for a program.
    pub parent: u64,
    /// What INFO tells.
    pub flow: Flow,
    /// That opened the chain's first connection.
    pub program: Program,
}

/// The counters, by their index in the kernel's array, with the names shown to people.
pub const COUNTERS: [&str; 23] = [
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
];

/// Something an operator wants to know.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// The filter that matched.
    pub filter_id: u64,
    /// `SIDETRACK_EVENT_*`, from 1.
    pub kind: u32,
    /// The service it matched for.
    pub service: u32,
    /// Who connected.
    pub pid: u32,
    /// Who connected.
    pub uid: u32,
    /// Where to.
    pub remote_addr: [u8; 16],
    /// Network order.
    pub remote_port: [u8; 2],
    /// As in [`Flow`].
    pub protocol: u8,
    /// As in [`Flow`].
    pub family: u8,
    /// Which layer asked.
    pub layer: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The other end.
    pub local_addr: [u8; 16],
    /// Network order.
    pub local_port: [u8; 2],
    /// Of the policy, its lower bits.
    pub generation: u16,
    /// Zero.
    pub reserved2: u32,
    /// Who connected.
    pub comm: [u8; COMM_SIZE],
}

const _: () = {
    assert!(size_of::<Records>() == 32);
    assert!(size_of::<Listen>() == 32);
    assert!(size_of::<Datagram>() == 40);
    assert!(size_of::<Flow>() == 168);
    assert!(size_of::<Info>() == 1024);
    assert!(size_of::<AutoContext>() == 296);
    assert!(size_of::<Service>() == 120);
    assert!(size_of::<Event>() == 96);
    assert!(size_of::<FlowEntry>() == 312);
};
