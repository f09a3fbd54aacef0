//! A redirected connection, as the accepted socket tells of it.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::iter;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use sidetrack_abi::address;
use sidetrack_abi::kernel::{self, Info};
use zerocopy::FromBytes;

use crate::{Error, sys};

/// Asks an accepted socket for its flow: where the connection was going, its context, its records
/// (SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT and …_RECORDS in one).
///
/// One system call; a second one only for a context over 1,024 bytes, which no longer fits behind
/// the rest, and for the process's first one over 320 bytes. Errors: [`Error::NoEngine`], [`Error::NotRedirected`], [`Error::NotConnected`].
pub fn query(socket: impl AsFd) -> Result<Flow, Error> {
    let socket = socket.as_fd();
    sys::get_option(socket, kernel::INFO, |answer| read(socket, answer)).map_err(query_error)?
}

fn read(socket: BorrowedFd<'_>, answer: &[u8]) -> Result<Flow, Error> {
    let (info, rest) = Info::ref_from_prefix(answer).map_err(|_| Error::NoEngine)?; // shorter than any
    if info.version != kernel::ABI_VERSION || info.size as usize != size_of::<Info>() {
        return Err(Error::Version {
            engine: info.version,
            sdk: kernel::ABI_VERSION,
        });
    }
    let facts = match (info.context_given, info.context_length) {
        (1, _) => Facts::new(info, Some(rest)),
        (_, 0) => Facts::new(info, None),
        _ => {
            sys::expect_long_contexts();
            Facts::new(info, Some(&query_context(socket)?))
        }
    };
    let facts = Box::new(facts);
    Ok(Flow { facts })
}

fn query_context(socket: BorrowedFd<'_>) -> Result<Box<[u8]>, Error> {
    match sys::get_option(socket, kernel::CONTEXT, |bytes| Box::from(bytes)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Err(Error::NoContext),
        answer => answer.map_err(query_error),
    }
}

/// What is kept of [`Info`]: of the executable's path and the names as much as there is. A proxy has one of
/// these for each connection, as long as it is open.
#[derive(Clone)]
struct Facts {
    flow: kernel::Flow,
    target: SocketAddr,
    records: kernel::Records,
    state: u32,
    /// The executable's path and the chain's names, each ended by a NUL; then the context.
    tail: Box<[u8]>,
    /// Of the context, in bytes.
    context_length: Option<usize>,
}

impl Facts {
    fn new(info: &Info, context: Option<&[u8]>) -> Self {
        let chain = usize::from(info.flow.chain_length).min(kernel::CHAIN_MAX);
        let names = info.names[..chain].iter().map(|name| address::text(name));
        let texts = iter::once(address::text(&info.executable.path)).chain(names);
        let size: usize = texts.clone().map(|text| text.len() + 1).sum();
        let mut tail = Vec::with_capacity(size + context.map_or(0, <[u8]>::len));
        for text in texts {
            tail.extend_from_slice(text);
            tail.push(0);
        }
        tail.extend_from_slice(context.unwrap_or_default());
        Self {
            flow: info.flow,
            target: address::socket_address(info.target_addr, info.target_port),
            records: info.records,
            state: info.state,
            tail: tail.into(),
            context_length: context.map(<[u8]>::len),
        }
    }

    /// The executable's path, then the chain's names, then anything.
    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.tail.split(|byte| *byte == 0)
    }

    fn context(&self) -> Option<&[u8]> {
        let length = self.context_length?;
        self.tail.get(self.tail.len() - length..)
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

/// A redirected connection: where it was going, whose it is, and how to go on.
#[derive(Clone)]
pub struct Flow {
    facts: Box<Facts>,
}

/// A flow's redirect records: an opaque token of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Records(pub(crate) kernel::Records);

/// FWPS_CONNECTION_REDIRECT_STATE (spec 3.2), as this service sees the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No service redirected it.
    NotRedirected,
    /// This service did, last.
    RedirectedBySelf,
    /// Another service did, and this one never.
    RedirectedByOther,
    /// This service did, and another one after it.
    PreviouslyRedirectedBySelf,
}

/// The program that opened the chain's first connection (WFP: ALE_ORIGINAL_APP_ID).
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its file as it saw it when it connected. Only the last 247 bytes of a
    /// longer path; empty if the kernel side has forgotten it, having seen 4,096 others since.
    pub executable: &'a Path,
    /// The task's name, at most 15 bytes.
    pub comm: Comm<'a>,
    /// Its process.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// Its real group.
    pub gid: u32,
    /// Its cgroup (v2), as the kernel numbers it.
    pub cgroup_id: u64,
}

/// A task's name. Prints as text, whatever its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Comm<'a>(&'a [u8]);

impl Flow {
    /// Where the program wanted to go. An IPv4-mapped destination is given as IPv4.
    pub fn original_destination(&self) -> SocketAddr {
        let flow = &self.facts.flow;
        address::socket_address(flow.remote_addr, flow.remote_port)
    }

    /// The client socket's own address.
    pub fn client(&self) -> SocketAddr {
        let flow = &self.facts.flow;
        address::socket_address(flow.local_addr, flow.local_port)
    }

    /// This service's own address, to which the kernel diverted the connection.
    pub fn own_address(&self) -> SocketAddr {
        self.facts.target
    }

    /// Whether it is of datagrams.
    pub fn is_datagrams(&self) -> bool {
        i32::from(self.facts.flow.protocol) == libc::IPPROTO_UDP
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        i32::from(self.facts.flow.family) == libc::AF_INET
    }

    /// The program, user and cgroup at the chain's beginning.
    pub fn program(&self) -> Program<'_> {
        let flow = &self.facts.flow;
        let executable = self.facts.texts().next().unwrap_or_default();
        Program {
            executable: Path::new(OsStr::from_bytes(executable)),
            comm: Comm(address::text(&flow.comm)),
            pid: flow.pid,
            uid: flow.uid,
            gid: flow.gid,
            cgroup_id: flow.cgroup_id,
        }
    }

    /// The redirect context, if the filter gave one (at most 4,000 bytes).
    pub fn context(&self) -> Option<&[u8]> {
        self.facts.context()
    }

    /// The token to set on the socket with which the proxy goes on.
    pub fn records(&self) -> Records {
        Records(self.facts.records)
    }

    /// Always [`State::RedirectedBySelf`] on an accepted socket; for code brought from Windows.
    pub fn state(&self) -> State {
        match self.facts.state {
            kernel::REDIRECTED_BY_SELF => State::RedirectedBySelf,
            kernel::REDIRECTED_BY_OTHER => State::RedirectedByOther,
            kernel::PREVIOUSLY_REDIRECTED_BY_SELF => State::PreviouslyRedirectedBySelf,
            _ => State::NotRedirected,
        }
    }

    /// The services that have seen the connection, in order, this one last.
    pub fn chain(&self) -> impl ExactSizeIterator<Item = &str> {
        let length = usize::from(self.facts.flow.chain_length).min(kernel::CHAIN_MAX);
        let mut names = self.facts.texts().skip(1);
        (0..length).map(move |_| {
            let name = names.next().unwrap_or_default();
            std::str::from_utf8(name).unwrap_or("?")
        })
    }

    /// Names this hop.
    pub fn id(&self) -> u64 {
        self.facts.flow.id
    }

    /// Names the connection through all its hops: every service of the chain is told the same.
    pub fn origin_id(&self) -> u64 {
        self.facts.flow.origin_id
    }

    /// The filter that redirected.
    pub fn filter_id(&self) -> u64 {
        self.facts.flow.filter_id
    }

    /// The interface the program had bound its socket to, by index. The kernel lifted that binding to
    /// divert the connection; whoever wants it back binds the outgoing socket.
    pub fn bound_interface(&self) -> Option<u32> {
        match self.facts.flow.bound_ifindex {
            0 => None,
            index => Some(index),
        }
    }

    /// How long ago the program called connect.
    pub fn age(&self) -> Duration {
        let then = Duration::from_nanos(self.facts.flow.connected_at);
        sys::monotonic_now().saturating_sub(then)
    }

    /// Goes on to the original destination, with the records set.
    ///
    /// Blocks until connected. Errors: [`Error::SelfConnect`], [`Error::BadRecords`],
    /// [`Error::System`] with the connect's own reason.
    pub fn connect(&self) -> Result<TcpStream, Error> {
        self.connect_to(self.original_destination())
    }

    /// Goes on to another destination instead, with the records set.
    pub fn connect_to(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let socket = self.outgoing(destination)?;
        socket
            .connect(&destination.into())
            .map_err(Error::system("connect to the destination"))?;
        Ok(socket.into())
    }

    /// Begins to go on to the original destination, with the records set, and does not wait.
    ///
    /// The stream is non-blocking; it is connected when it is writable and has no error. Errors: as
    /// [`connect`](Self::connect), as far as they are known at once.
    pub fn connect_nonblocking(&self) -> Result<TcpStream, Error> {
        self.connect_to_nonblocking(self.original_destination())
    }

    /// Begins to go on to another destination instead.
    pub fn connect_to_nonblocking(&self, destination: SocketAddr) -> Result<TcpStream, Error> {
        let socket = self.outgoing_nonblocking(destination)?;
        match socket.connect(&destination.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                Err(Error::system("connect to the destination")(error))
            }
            _ => Ok(socket.into()),
        }
    }
}

impl Records {
    /// The token's 32 bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        zerocopy::transmute!(self.0)
    }

    /// The token of these bytes. Whether it is good, only [`set_records`](crate::set_records) tells.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(zerocopy::transmute!(bytes))
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records(flow {})", self.0.flow_id) // the token stays a secret
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
    /// As the kernel has it.
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
