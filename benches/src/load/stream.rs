//! Streams of as many bytes as go through. Each byte is compared with the one that was sent at its
//! position.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::EventFlags;

use super::socket::{Poller, accept, connect, listen, would_block};
use super::{DRAIN_MAX, ORIGIN, ensure_before};

/// The most bytes that one call writes or reads.
const CHUNK: usize = 256 * 1024;
/// The length in bytes after which the pattern of a stream repeats: a prime, so that the size of no
/// buffer is a multiple of it.
const PERIOD: usize = 65_521;

/// The epoll token of the listener; all other tokens are indices of sockets.
const LISTENER: usize = usize::MAX;

/// The directions in which bytes are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directions {
    /// From the clients to the origin.
    pub(crate) up: bool,
    /// From the origin to the clients.
    pub(crate) down: bool,
}

/// An origin, clients, and the streams between them.
pub(crate) struct Streams {
    poller: Poller,
    listener: TcpListener,
    sockets: Vec<StreamSocket>,
    directions: Directions,
    pattern: Box<[u8]>,
    buffer: Box<[u8]>,
    /// Whether nothing more is sent, and streams are expected to end.
    stopping: bool,
    /// The number of connections that the origin accepted.
    pub(crate) accepted: u64,
    /// The number of bytes that both sides sent.
    pub(crate) sent: u64,
    /// The number of bytes that arrived, all of them unchanged.
    pub(crate) received: u64,
}

/// One side of a stream.
struct StreamSocket {
    stream: TcpStream,
    /// The number of bytes that it sent.
    sent: usize,
    /// The number of bytes that it received.
    received: usize,
    /// Whether the other side closed its direction.
    has_ended: bool,
}

impl Streams {
    /// Opens the origin's listener.
    pub(crate) fn new(directions: Directions) -> Result<Self> {
        let poller = Poller::new()?;
        let listener = listen(ORIGIN)?;
        poller.add(&listener, LISTENER, EventFlags::IN)?;
        let mut state = 1_u32;
        let pattern = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x7f | 0x80 // no protocol begins with such a byte
        });
        let period: Vec<u8> = pattern.take(PERIOD).collect();
        Ok(Self {
            poller,
            listener,
            sockets: Vec::new(),
            directions,
            pattern: period
                .iter()
                .copied()
                .cycle()
                .take(PERIOD + CHUNK)
                .collect(),
            buffer: vec![0; CHUNK].into(),
            stopping: false,
            accepted: 0,
            sent: 0,
            received: 0,
        })
    }

    /// Opens this number of streams.
    pub(crate) fn open(&mut self, streams: usize, destination: SocketAddrV4) -> Result<()> {
        for _ in 0..streams {
            self.add(connect(destination)?, self.directions.up)?;
        }
        Ok(())
    }

    /// Sends and receives for this time.
    pub(crate) fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.handle_events()?;
        }
        Ok(())
    }

    /// Stops sending, and waits until everything that was sent has arrived.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.stopping = true;
        let deadline = Instant::now() + DRAIN_MAX;
        for token in 0..self.sockets.len() {
            self.half_close(token)?;
        }
        loop {
            let left = self
                .sockets
                .iter()
                .filter(|socket| !socket.has_ended)
                .count();
            if left == 0 {
                break;
            }
            ensure_before(deadline, "streams", left)?;
            self.handle_events()?;
        }
        ensure!(
            self.received == self.sent,
            "{} bytes were sent, {} arrived",
            self.sent,
            self.received
        );
        Ok(())
    }

    fn half_close(&mut self, token: usize) -> Result<()> {
        let socket = &self.sockets[token];
        if socket.has_ended {
            return Ok(());
        }
        let stream = &socket.stream;
        stream.shutdown(Shutdown::Write).context("half-close")?;
        self.poller.change(stream, token, EventFlags::IN)
    }

    fn add(&mut self, stream: TcpStream, sends: bool) -> Result<()> {
        let flags = match sends {
            true => EventFlags::IN | EventFlags::OUT,
            false => EventFlags::IN,
        };
        self.poller.add(&stream, self.sockets.len(), flags)?;
        self.sockets.push(StreamSocket {
            stream,
            sent: 0,
            received: 0,
            has_ended: false,
        });
        Ok(())
    }

    fn handle_events(&mut self) -> Result<()> {
        let events = self.poller.wait(10)?;
        for event in &events {
            let (token, flags) = (event.data.u64() as usize, event.flags);
            if token == LISTENER {
                while let Some(stream) = accept(&self.listener)? {
                    self.accepted += 1;
                    self.add(stream, self.directions.down)?;
                }
                continue;
            }
            if flags.contains(EventFlags::OUT) && !self.stopping {
                self.send(token)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP) {
                self.receive(token)?;
            }
        }
        self.poller.recycle(events);
        Ok(())
    }

    fn send(&mut self, token: usize) -> Result<()> {
        let socket = &mut self.sockets[token];
        let position = socket.sent % PERIOD;
        let written = socket
            .stream
            .write(&self.pattern[position..position + CHUNK]);
        if would_block(&written) {
            return Ok(());
        }
        let written = written.context("send")?;
        socket.sent += written;
        self.sent += written as u64;
        Ok(())
    }

    fn receive(&mut self, token: usize) -> Result<()> {
        let socket = &mut self.sockets[token];
        if socket.has_ended {
            return Ok(());
        }
        let read = socket.stream.read(&mut self.buffer);
        if would_block(&read) {
            return Ok(());
        }
        let read = read.context("receive")?;
        if read == 0 {
            ensure!(self.stopping, "a stream ended too early");
            socket.has_ended = true;
            let _ = socket.stream.shutdown(Shutdown::Both); // it may be closed already
            return self
                .poller
                .change(&socket.stream, token, EventFlags::empty());
        }
        let position = socket.received % PERIOD;
        ensure!(
            self.buffer[..read] == self.pattern[position..position + read],
            "a stream has wrong bytes"
        );
        socket.received += read;
        self.received += read as u64;
        Ok(())
    }
}
