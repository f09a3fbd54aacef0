//! A minimal relay to the origin: what a relay takes that inspects nothing, asks nothing, limits
//! nothing and writes nothing down. Not a proxy to be used: it is the limit that proxies are held to.
//!
//! One thread. Small amounts are copied, and what fills the buffer is followed by splicing through pipes of a
//! pool; datagrams are copied one by one.

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
/// Who has filled the buffer has more.
const COPY_SIZE: usize = 16 * 1024;
const POOL_MAX: usize = 64;
const EVENTS: usize = 256;
const ENDS: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// What is relayed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Connections.
    Connections,
    /// Datagrams.
    Datagrams,
}

/// Relays until it is ended.
pub(crate) fn run(kind: Kind) -> Result<()> {
    match kind {
        Kind::Connections => Connections::run(),
        Kind::Datagrams => Datagrams::run(),
    }
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// One direction.
#[derive(Default)]
struct Direction {
    held: Held,
    /// Whether the last read was a large one.
    is_bulky: bool,
    /// Whether the end is among what there is to read.
    ends: bool,
    is_over: bool,
}

/// What was read, and there was no room for.
#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    Pipe(Pipe, usize),
}

struct Pair {
    ends: [TcpStream; 2],
    /// From the end of the same place to the other one.
    directions: [Direction; 2],
}

struct Connections {
    epoll: OwnedFd,
    listener: TcpListener,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    tools: Tools,
}

/// What all connections share.
struct Tools {
    pipes: Vec<Pipe>,
    buffer: Box<[u8]>,
}

impl Connections {
    fn run() -> Result<()> {
        let listener = TcpListener::bind(LISTEN).context("listen")?;
        rustix::net::listen(&listener, 4096).context("listen")?;
        listener.set_nonblocking(true).context("not block")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("make an epoll")?;
        let token = EventData::new_u64(u64::MAX);
        epoll::add(&epoll, &listener, token, EventFlags::IN)?;
        let mut relay = Self {
            epoll,
            listener,
            pairs: Vec::new(),
            free: Vec::new(),
            tools: Tools {
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
                    continue; // the client is told by its close
                }
                _ => {}
            }
            let origin = TcpStream::from(origin);
            for stream in [&client, &origin] {
                let _ = stream.set_nodelay(true);
            }
            let place = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            for (end, stream) in [&client, &origin].into_iter().enumerate() {
                let token = EventData::new_u64((place * 2 + end) as u64);
                epoll::add(&self.epoll, stream, token, flags)?;
            }
            self.pairs[place] = Some(Pair {
                ends: [client, origin],
                directions: Default::default(),
            });
        }
    }

    fn serve(&mut self, token: usize, events: EventFlags) {
        let place = token / 2;
        let Some(pair) = &mut self.pairs[place] else {
            return;
        };
        pair.directions[token % 2].ends |= events.intersects(ENDS);
        let readable = events.intersects(ENDS.union(EventFlags::IN));
        let mut failed = false;
        for from in 0..2 {
            let (source, target) = (&pair.ends[from], &pair.ends[1 - from]);
            let direction = &mut pair.directions[from];
            let waits = !matches!(direction.held, Held::Nothing);
            if waits || (readable && from == token % 2) {
                failed |= pump(source, target, direction, &mut self.tools).is_err();
            }
        }
        match &pair.directions {
            [up, down] if failed || (up.is_over && down.is_over) => {
                self.pairs[place] = None;
                self.free.push(place);
            }
            [up, _] if up.is_over => drop(shutdown(&pair.ends[1], Shutdown::Write)),
            [_, down] if down.is_over => drop(shutdown(&pair.ends[0], Shutdown::Write)),
            _ => {}
        }
    }
}

/// Moves what there is and what there is room for.
fn pump(
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    tools: &mut Tools,
) -> Result<(), Errno> {
    while !direction.is_over {
        let flushed = flush(to, direction, tools);
        if !matches!(flushed, Ok(true)) {
            return flushed.map(drop).or_else(waits);
        }
        let copied = !direction.is_bulky;
        let read = match copied {
            true => copy(from, to, direction, tools),
            false => fill(from, direction, tools),
        };
        match read {
            Ok(0) => direction.is_over = true,
            Ok(length) => direction.is_bulky = length >= COPY_SIZE,
            Err(error) => return waits(error),
        }
        // A copy that did not fill the buffer was all there is.
        if copied && !direction.is_bulky && !direction.ends {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether nothing is held any more.
fn flush(to: &TcpStream, direction: &mut Direction, tools: &mut Tools) -> Result<bool, Errno> {
    match &mut direction.held {
        Held::Nothing => return Ok(true),
        Held::Bytes(bytes) => {
            let sent = send(to, bytes, SendFlags::NOSIGNAL)?;
            bytes.drain(..sent);
            if !bytes.is_empty() {
                return Ok(false);
            }
        }
        Held::Pipe(pipe, filled) => {
            while *filled > 0 {
                *filled -= splice(&pipe.read, None, to, None, *filled, FLAGS)?;
            }
        }
    }
    if let Held::Pipe(pipe, _) = std::mem::take(&mut direction.held)
        && tools.pipes.len() < POOL_MAX
    {
        tools.pipes.push(pipe);
    }
    Ok(true)
}

/// Reads into a pipe; 0 at the end.
fn fill(from: &TcpStream, direction: &mut Direction, tools: &mut Tools) -> Result<usize, Errno> {
    let pipe = match tools.pipes.pop() {
        Some(pipe) => pipe,
        None => new_pipe()?,
    };
    let filled = splice(from, None, &pipe.write, None, PIPE_SIZE, FLAGS);
    match filled {
        Ok(length) if length > 0 => direction.held = Held::Pipe(pipe, length),
        _ => tools.pipes.push(pipe),
    }
    filled
}

/// Reads, and passes on; 0 at the end.
fn copy(
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    tools: &mut Tools,
) -> Result<usize, Errno> {
    let (_, length) = recv(from, &mut *tools.buffer, RecvFlags::empty())?;
    if length == 0 {
        return Ok(0);
    }
    let bytes = &tools.buffer[..length];
    let sent = match send(to, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        Err(error) => waits(error).map(|()| 0)?,
    };
    if sent < length {
        direction.held = Held::Bytes(bytes[sent..].to_vec());
    }
    Ok(length)
}

fn new_pipe() -> Result<Pipe, Errno> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE); // a smaller one does as well
    Ok(Pipe { read, write })
}

/// NOTCONN: a connection that is being made.
fn waits(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::AGAIN | Errno::NOTCONN => Ok(()),
        error => Err(error),
    }
}

struct Datagrams {
    epoll: OwnedFd,
    listener: UdpSocket,
    tokens: HashMap<SocketAddr, usize>,
    flows: Vec<(UdpSocket, SocketAddr)>,
    buffer: Box<[u8]>,
}

impl Datagrams {
    fn run() -> Result<()> {
        let listener = UdpSocket::bind(LISTEN).context("listen")?;
        listener.set_nonblocking(true).context("not block")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("make an epoll")?;
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
                let done = match event.data.u64() {
                    u64::MAX => relay.up(),
                    token => relay.down(token as usize),
                };
                match done {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
        }
    }

    fn up(&mut self) -> io::Result<()> {
        loop {
            let (length, from) = self.listener.recv_from(&mut self.buffer)?;
            let token = match self.tokens.get(&from) {
                Some(token) => *token,
                None => self.open(from)?,
            };
            let _ = self.flows[token].0.send(&self.buffer[..length]); // lost, as on any network
        }
    }

    fn down(&mut self, token: usize) -> io::Result<()> {
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
