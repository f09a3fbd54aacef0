//! A minimal relay to the origin. It inspects nothing, queries nothing, has no limits and writes no
//! log, so that it shows what any relay costs. It is not a proxy for real use: it is the limit that
//! proxies are compared with.
//!
//! It has one thread. Small amounts of data are copied. After a read that fills the buffer, it
//! splices through pipes, which it keeps in a pool. Datagrams are copied one by one.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::{Domain, Socket, Type};

use crate::load::{DATAGRAM_ORIGIN, ORIGIN};

const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9999);
const PIPE_SIZE: usize = 256 * 1024;
/// The size of the buffer for copies. A read that fills it suggests that more data waits.
const COPY_SIZE: usize = 16 * 1024;
/// The most pipes that are kept for reuse.
const POOL_MAX: usize = 64;
const EVENTS: usize = 256;
/// Events after which the end of a direction may be read.
const END_EVENTS: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);
const SPLICE_FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// What the relay relays.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum MinimalRelayTraffic {
    /// TCP connections.
    Connections,
    /// UDP datagrams.
    Datagrams,
}

/// Relays until the process is killed.
pub(crate) fn run(traffic: MinimalRelayTraffic) -> Result<()> {
    match traffic {
        MinimalRelayTraffic::Connections => ConnectionRelay::run(),
        MinimalRelayTraffic::Datagrams => DatagramRelay::run(),
    }
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// The state of one direction of a connection.
#[derive(Default)]
struct Direction {
    unsent: Unsent,
    /// Whether the last read was at least as large as the buffer. The next one uses a pipe then.
    is_bulky: bool,
    /// Whether epoll reported that the sender closed this direction.
    has_end: bool,
    /// Whether everything was relayed, including the end.
    is_over: bool,
}

/// Data that was read, but did not fit into the send buffer.
#[derive(Default)]
enum Unsent {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    /// A pipe, and the number of bytes in it.
    Pipe(Pipe, usize),
}

struct RelayedConnection {
    /// The sockets of the client and of the origin.
    sockets: [TcpStream; 2],
    /// `directions[n]` goes from `sockets[n]` to the other socket.
    directions: [Direction; 2],
}

struct ConnectionRelay {
    epoll: OwnedFd,
    listener: TcpListener,
    /// An epoll token is twice the index, plus 1 for the origin's socket.
    connections: Vec<Option<RelayedConnection>>,
    /// The unused indices of `connections`.
    free: Vec<usize>,
    shared: SharedBuffers,
}

/// The buffers that all connections share.
struct SharedBuffers {
    /// Empty pipes for reuse.
    pipes: Vec<Pipe>,
    buffer: Box<[u8]>,
}

impl ConnectionRelay {
    fn run() -> Result<()> {
        let listener = TcpListener::bind(LISTEN).context("listen")?;
        rustix::net::listen(&listener, 4096).context("listen")?;
        listener
            .set_nonblocking(true)
            .context("make the listener non-blocking")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("create an epoll instance")?;
        let token = EventData::new_u64(u64::MAX);
        epoll::add(&epoll, &listener, token, EventFlags::IN)?;
        let mut relay = Self {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            shared: SharedBuffers {
                pipes: Vec::new(),
                buffer: vec![0; COPY_SIZE].into(),
            },
        };
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("wait"),
            }
            for event in &events {
                match event.data.u64() {
                    u64::MAX => relay.accept()?,
                    token => relay.serve(token as usize, event.flags),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = match accept_with(&self.listener, flags) {
                Ok(client) => TcpStream::from(client),
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            let origin = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
            match origin.connect(&ORIGIN.into()) {
                Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                    continue; // dropping the client's socket closes it
                }
                _ => {}
            }
            let origin = TcpStream::from(origin);
            for stream in [&client, &origin] {
                let _ = stream.set_nodelay(true);
            }
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            for (side, stream) in [&client, &origin].into_iter().enumerate() {
                let token = EventData::new_u64((index * 2 + side) as u64);
                epoll::add(&self.epoll, stream, token, flags)?;
            }
            self.connections[index] = Some(RelayedConnection {
                sockets: [client, origin],
                directions: Default::default(),
            });
        }
    }

    fn serve(&mut self, token: usize, events: EventFlags) {
        let index = token / 2;
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        connection.directions[token % 2].has_end |= events.intersects(END_EVENTS);
        let readable = events.intersects(END_EVENTS.union(EventFlags::IN));
        let mut failed = false;
        for from in 0..2 {
            let (source, target) = (&connection.sockets[from], &connection.sockets[1 - from]);
            let direction = &mut connection.directions[from];
            let has_unsent = !matches!(direction.unsent, Unsent::Nothing);
            if has_unsent || (readable && from == token % 2) {
                failed |= relay(source, target, direction, &mut self.shared).is_err();
            }
        }
        match &connection.directions {
            [up, down] if failed || (up.is_over && down.is_over) => {
                self.connections[index] = None;
                self.free.push(index);
            }
            [up, _] if up.is_over => drop(shutdown(&connection.sockets[1], Shutdown::Write)),
            [_, down] if down.is_over => drop(shutdown(&connection.sockets[0], Shutdown::Write)),
            _ => {}
        }
    }
}

/// Relays as much as can be read and sent without blocking.
fn relay(
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    shared: &mut SharedBuffers,
) -> Result<(), Errno> {
    while !direction.is_over {
        let flushed = flush(to, direction, shared);
        if !matches!(flushed, Ok(true)) {
            return flushed.map(drop).or_else(ok_if_blocked);
        }
        let copies = !direction.is_bulky;
        let read = match copies {
            true => copy(from, to, direction, shared),
            false => fill_pipe(from, direction, shared),
        };
        match read {
            Ok(0) => direction.is_over = true,
            Ok(length) => direction.is_bulky = length >= COPY_SIZE,
            Err(error) => return ok_if_blocked(error),
        }
        // A copy that does not fill the buffer has read everything.
        if copies && !direction.is_bulky && !direction.has_end {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what is unsent, and returns whether everything was sent.
fn flush(
    to: &TcpStream,
    direction: &mut Direction,
    shared: &mut SharedBuffers,
) -> Result<bool, Errno> {
    match &mut direction.unsent {
        Unsent::Nothing => return Ok(true),
        Unsent::Bytes(bytes) => {
            let sent = send(to, bytes, SendFlags::NOSIGNAL)?;
            bytes.drain(..sent);
            if !bytes.is_empty() {
                return Ok(false);
            }
        }
        Unsent::Pipe(pipe, filled) => {
            while *filled > 0 {
                *filled -= splice(&pipe.read, None, to, None, *filled, SPLICE_FLAGS)?;
            }
        }
    }
    if let Unsent::Pipe(pipe, _) = std::mem::take(&mut direction.unsent)
        && shared.pipes.len() < POOL_MAX
    {
        shared.pipes.push(pipe);
    }
    Ok(true)
}

/// Reads into a pipe, and returns the number of bytes: 0 at the end.
fn fill_pipe(
    from: &TcpStream,
    direction: &mut Direction,
    shared: &mut SharedBuffers,
) -> Result<usize, Errno> {
    let pipe = match shared.pipes.pop() {
        Some(pipe) => pipe,
        None => new_pipe()?,
    };
    let filled = splice(from, None, &pipe.write, None, PIPE_SIZE, SPLICE_FLAGS);
    match filled {
        Ok(length) if length > 0 => direction.unsent = Unsent::Pipe(pipe, length),
        _ => shared.pipes.push(pipe),
    }
    filled
}

/// Reads into the buffer and sends it, and returns the number of bytes that were read: 0 at the
/// end.
fn copy(
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    shared: &mut SharedBuffers,
) -> Result<usize, Errno> {
    let (_, length) = recv(from, &mut *shared.buffer, RecvFlags::empty())?;
    if length == 0 {
        return Ok(0);
    }
    let bytes = &shared.buffer[..length];
    let sent = match send(to, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        Err(error) => ok_if_blocked(error).map(|()| 0)?,
    };
    if sent < length {
        direction.unsent = Unsent::Bytes(bytes[sent..].to_vec());
    }
    Ok(length)
}

fn new_pipe() -> Result<Pipe, Errno> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE); // a smaller pipe works as well
    Ok(Pipe { read, write })
}

/// Success if the call would have to wait. NOTCONN means that the connection to the origin is not
/// established yet.
fn ok_if_blocked(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::AGAIN | Errno::NOTCONN => Ok(()),
        error => Err(error),
    }
}

struct DatagramRelay {
    epoll: OwnedFd,
    listener: UdpSocket,
    /// The index in `flows` of each client; it is the epoll token as well.
    tokens: HashMap<SocketAddr, usize>,
    /// The socket to the origin and the client's address of each flow.
    flows: Vec<(UdpSocket, SocketAddr)>,
    buffer: Box<[u8]>,
}

impl DatagramRelay {
    fn run() -> Result<()> {
        let listener = UdpSocket::bind(LISTEN).context("listen")?;
        listener
            .set_nonblocking(true)
            .context("make the listener non-blocking")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("create an epoll instance")?;
        let token = EventData::new_u64(u64::MAX);
        epoll::add(&epoll, &listener, token, EventFlags::IN)?;
        let mut relay = Self {
            epoll,
            listener,
            tokens: HashMap::new(),
            flows: Vec::new(),
            buffer: vec![0; 65_536].into(),
        };
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("wait"),
            }
            for event in &events {
                let result = match event.data.u64() {
                    u64::MAX => relay.relay_requests(),
                    token => relay.relay_responses(token as usize),
                };
                match result {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
        }
    }

    fn relay_requests(&mut self) -> io::Result<()> {
        loop {
            let (length, from) = self.listener.recv_from(&mut self.buffer)?;
            let token = match self.tokens.get(&from) {
                Some(token) => *token,
                None => self.open(from)?,
            };
            let _ = self.flows[token].0.send(&self.buffer[..length]); // an error is a lost datagram, as on any network
        }
    }

    fn relay_responses(&mut self, token: usize) -> io::Result<()> {
        let (socket, client) = &self.flows[token];
        loop {
            let length = socket.recv(&mut self.buffer)?;
            let _ = self.listener.send_to(&self.buffer[..length], client);
        }
    }

    fn open(&mut self, client: SocketAddr) -> io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(DATAGRAM_ORIGIN)?;
        socket.set_nonblocking(true)?;
        let token = self.flows.len();
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(token as u64),
            EventFlags::IN,
        )?;
        self.flows.push((socket, client));
        self.tokens.insert(client, token);
        Ok(token)
    }
}
