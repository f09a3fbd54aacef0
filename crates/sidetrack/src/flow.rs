//! A redirected connection, as the accepted socket's option INFO describes it.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use sidetrack_abi::address;
use sidetrack_abi::kernel::{self, Info};
use zerocopy::FromBytes;

use crate::{Error, sys};

/// Queries the flow of an accepted socket: the original destination, the program, the context and
/// the records.
///
/// Use it for sockets that were not accepted by [`Listener`](crate::Listener), which queries the
/// flow by itself. It does what SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT and …_RECORDS do together
/// on Windows (docs/wfp.md, 1.3.1).
///
/// One system call (the option INFO, bpf/sidetrack.h). A second one is made for a context of more
/// than 1,024 bytes, which does not fit into the first answer, and once per process for the first
/// context of more than 320 bytes.
///
/// # Errors
///
/// - [`Error::NotRedirected`] if the client connected straight to the listener's address.
/// - [`Error::NotConnected`] if the socket is a listener, or is not connected.
/// - [`Error::NoEngine`] if no engine is attached where the socket was created.
/// - [`Error::NotTcp`] if the socket is neither a TCP nor a UDP socket.
/// - [`Error::Version`] if the engine uses another version of the ABI.
/// - [`Error::System`] if the system call failed for another reason.
///
/// # Example
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let (stream, _) = listener.accept()?;
/// match sidetrack::query(&stream) {
///     Ok(flow) => println!("redirected on its way to {}", flow.original_destination()),
///     Err(sidetrack::Error::NotRedirected) => println!("connected straight to this port"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
pub fn query(socket: impl AsFd) -> Result<Flow, Error> {
    let socket = socket.as_fd();
    sys::get_option(socket, kernel::INFO, |answer| parse_info(socket, answer))
        .map_err(query_error)?
}

/// Queries the id of the flow of an accepted socket. Errors are those of [`query`].
pub(crate) fn query_flow_id(socket: impl AsFd) -> Result<u64, Error> {
    let records = sys::get_option(socket.as_fd(), kernel::RECORDS, |answer| {
        kernel::Records::read_from_bytes(answer).ok()
    });
    let records = records.map_err(query_error)?.ok_or(Error::NoEngine)?;
    Ok(records.flow_id)
}

/// Reads the answer to INFO. Fetches the context with a second call if it did not fit behind
/// `Info`.
fn parse_info(socket: BorrowedFd<'_>, answer: &[u8]) -> Result<Flow, Error> {
    // An answer shorter than `Info` is not from an engine of this ABI.
    let (info, rest) = Info::ref_from_prefix(answer).map_err(|_| Error::NoEngine)?;
    if info.version != kernel::ABI_VERSION || info.size as usize != size_of::<Info>() {
        return Err(Error::Version {
            engine: info.version,
            sdk: kernel::ABI_VERSION,
        });
    }
    let data = match (info.context_given, info.context_length) {
        (1, _) => FlowData::new(info, Some(rest)),
        (_, 0) => FlowData::new(info, None),
        _ => {
            sys::expect_long_contexts();
            FlowData::new(info, Some(&query_context(socket)?))
        }
    };
    let data = Box::new(data);
    Ok(Flow { data })
}

fn query_context(socket: BorrowedFd<'_>) -> Result<Box<[u8]>, Error> {
    match sys::get_option(socket, kernel::CONTEXT, |bytes| Box::from(bytes)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Err(Error::NoContext),
        answer => answer.map_err(query_error),
    }
}

/// The data of a flow that the SDK keeps from [`Info`]. A proxy holds one for each open connection,
/// so the path and the names take only as many bytes as they have.
#[derive(Clone)]
struct FlowData {
    flow: kernel::Flow,
    /// The accepted socket's own address.
    target: SocketAddr,
    records: kernel::Records,
    /// One of the values `kernel::NOT_REDIRECTED` to `kernel::PREVIOUSLY_REDIRECTED_BY_SELF`.
    state: u32,
    /// The executable's path, then the names of the chain's services, each ended by a NUL byte;
    /// then the context.
    strings_and_context: Box<[u8]>,
    /// Length of the context in bytes; `None` if the filter gave no context.
    context_length: Option<usize>,
}

impl FlowData {
    fn new(info: &Info, context: Option<&[u8]>) -> Self {
        let chain = usize::from(info.flow.chain_length).min(kernel::CHAIN_MAX);
        let names = info.names[..chain].iter().map(|name| address::text(name));
        let strings = iter::once(address::text(&info.executable.path)).chain(names);
        let size: usize = strings.clone().map(|text| text.len() + 1).sum();
        let mut strings_and_context = Vec::with_capacity(size + context.map_or(0, <[u8]>::len));
        for text in strings {
            strings_and_context.extend_from_slice(text);
            strings_and_context.push(0);
        }
        strings_and_context.extend_from_slice(context.unwrap_or_default());
        Self {
            flow: info.flow,
            target: address::socket_address(info.target_addr, info.target_port),
            records: info.records,
            state: info.state,
            strings_and_context: strings_and_context.into(),
            context_length: context.map(<[u8]>::len),
        }
    }

    /// The executable's path, then the names of the chain's services. Parts of the context may
    /// follow.
    fn strings(&self) -> impl Iterator<Item = &[u8]> {
        self.strings_and_context.split(|byte| *byte == 0)
    }

    fn context(&self) -> Option<&[u8]> {
        let length = self.context_length?;
        self.strings_and_context
            .get(self.strings_and_context.len() - length..)
    }
}

fn query_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Error::NoEngine,
        Some(libc::ENODATA) => Error::NotRedirected,
        Some(libc::ENOTCONN) => Error::NotConnected,
        Some(libc::EPROTONOSUPPORT) => Error::NotTcp,
        _ => Error::System {
            what: "query the redirected connection",
            source,
        },
    }
}

/// A redirected connection, or one UDP conversation of a client's socket with one destination.
///
/// It describes where the client wanted to go
/// ([`original_destination`](Self::original_destination)), which program the client is
/// ([`program`](Self::program)), and which services have already seen the connection
/// ([`chain`](Self::chain)). With [`connect`](Self::connect) the proxy connects to the original
/// destination. The data is that of `struct sidetrack_info` in bpf/sidetrack.h.
#[derive(Clone)]
pub struct Flow {
    data: Box<FlowData>,
}

/// The redirect records of a flow: an opaque token of 32 bytes.
///
/// A proxy sets them on the outgoing socket ([`set_records`](crate::set_records)), which links that
/// socket to the flow. They are valid while a socket of the flow is open, and for 60 seconds after
/// that. The bytes are a credential: `Debug` does not print them (docs/wfp.md, 1.7;
/// docs/proxies.md).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Records(pub(crate) kernel::Records);

/// The redirect state of a connection as seen by this service: FWPS_CONNECTION_REDIRECT_STATE of
/// WFP (docs/wfp.md, 3.2.1 to 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No service redirected the connection.
    NotRedirected,
    /// This service was the last one to redirect it.
    RedirectedBySelf,
    /// Another service redirected it, and this one never did.
    RedirectedByOther,
    /// This service redirected it, and another service redirected it after that.
    PreviouslyRedirectedBySelf,
}

/// The program that opened the first connection of the chain (the original program; in WFP the
/// field ALE_ORIGINAL_APP_ID).
///
/// All values are those at the time of the program's connect.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Path of the executable, as the kernel saw it. Of a path longer than 247 bytes it is the last
    /// 247 bytes. Empty if the kernel side no longer remembers it: it keeps the paths of the 4,096
    /// most recently used executables.
    pub executable: &'a Path,
    /// Name of the task (`/proc/PID/comm`), at most 15 bytes.
    pub comm: Comm<'a>,
    /// Process id (thread group id) in the engine's pid namespace; 0 if the process is not in it.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Id of the cgroup (v2), which is the inode number of its directory.
    pub cgroup_id: u64,
}

/// The name of a task. It prints as text; bytes that are not UTF-8 are replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Comm<'a>(&'a [u8]);

impl Flow {
    /// The address that the program asked for. An IPv4-mapped IPv6 address is returned as IPv4.
    pub fn original_destination(&self) -> SocketAddr {
        let flow = &self.data.flow;
        address::socket_address(flow.remote_addr, flow.remote_port)
    }

    /// The address of the client's socket: the peer address of the accepted socket.
    pub fn client(&self) -> SocketAddr {
        let flow = &self.data.flow;
        address::socket_address(flow.local_addr, flow.local_port)
    }

    /// The address to which the kernel redirected the connection: the local address of the accepted
    /// socket. For UDP it is the address at which the flow's datagrams arrive.
    pub fn own_address(&self) -> SocketAddr {
        self.data.target
    }

    /// Whether this is a flow of UDP datagrams rather than a TCP connection.
    pub fn is_datagrams(&self) -> bool {
        i32::from(self.data.flow.protocol) == libc::IPPROTO_UDP
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        i32::from(self.data.flow.family) == libc::AF_INET
    }

    /// The program that opened the first connection of the chain.
    pub fn program(&self) -> Program<'_> {
        let flow = &self.data.flow;
        let executable = self.data.strings().next().unwrap_or_default();
        Program {
            executable: Path::new(OsStr::from_bytes(executable)),
            comm: Comm(address::text(&flow.comm)),
            pid: flow.pid,
            uid: flow.uid,
            gid: flow.gid,
            cgroup_id: flow.cgroup_id,
        }
    }

    /// The redirect context, 1 to 4,000 bytes. `None` if the filter gave none.
    pub fn context(&self) -> Option<&[u8]> {
        self.data.context()
    }

    /// The redirect records, to be set on the outgoing socket. [`connect`](Self::connect) and
    /// [`outgoing`](Self::outgoing) do that by themselves.
    pub fn records(&self) -> Records {
        Records(self.data.records)
    }

    /// The redirect state. It is always [`State::RedirectedBySelf`] on an accepted socket; the
    /// method exists for code that was ported from Windows.
    pub fn state(&self) -> State {
        match self.data.state {
            kernel::REDIRECTED_BY_SELF => State::RedirectedBySelf,
            kernel::REDIRECTED_BY_OTHER => State::RedirectedByOther,
            kernel::PREVIOUSLY_REDIRECTED_BY_SELF => State::PreviouslyRedirectedBySelf,
            _ => State::NotRedirected,
        }
    }

    /// The names of the services that have seen the connection, in order. The last one is this
    /// service. At most 16; a name that is not UTF-8 is returned as "?".
    pub fn chain(&self) -> impl ExactSizeIterator<Item = &str> {
        let length = usize::from(self.data.flow.chain_length).min(kernel::CHAIN_MAX);
        let mut names = self.data.strings().skip(1);
        (0..length).map(move |_| {
            let name = names.next().unwrap_or_default();
            std::str::from_utf8(name).unwrap_or("?")
        })
    }

    /// The id of this flow. It identifies this hop of the chain.
    pub fn id(&self) -> u64 {
        self.data.flow.id
    }

    /// The id of the chain's first flow. It is the same at every service of the chain.
    pub fn origin_id(&self) -> u64 {
        self.data.flow.origin_id
    }

    /// The id of the filter that redirected the connection.
    pub fn filter_id(&self) -> u64 {
        self.data.flow.filter_id
    }

    /// Index of the interface to which the program had bound its socket (SO_BINDTODEVICE). `None`
    /// if it was not bound. The kernel side removed the binding to redirect the connection; a proxy
    /// that wants the same interface binds the outgoing socket to it.
    pub fn bound_interface(&self) -> Option<u32> {
        match self.data.flow.bound_ifindex {
            0 => None,
            index => Some(index),
        }
    }

    /// Time since the program called connect.
    pub fn age(&self) -> Duration {
        let then = Duration::from_nanos(self.data.flow.connected_at);
        sys::monotonic_now().saturating_sub(then)
    }
}

impl Records {
    /// The 32 bytes of the token, for example to hand them to another process of the proxy.
    pub fn to_bytes(self) -> [u8; 32] {
        zerocopy::transmute!(self.0)
    }

    /// The token with these bytes. They are not checked here; [`set_records`](crate::set_records)
    /// fails if they are not valid.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(zerocopy::transmute!(bytes))
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records(flow {})", self.0.flow_id) // without the token, which is a credential
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("id", &self.id())
            .field("original_destination", &self.original_destination())
            .field("client", &self.client())
            .field("program", &self.program())
            .field("chain", &self.chain().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl<'a> Comm<'a> {
    /// The bytes of the name, without the terminating NUL.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for Comm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.0))
    }
}

impl fmt::Debug for Comm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.0), f)
    }
}
