//! As many bytes as go through, each compared with what was sent at its place.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::EventFlags;

use super::socket::{Waiter, accept, blocks, connect, listen};
use super::{DRAIN, ORIGIN, within};

/// What is written or read at once.
const CHUNK: usize = 256 * 1024;
/// The bytes of a stream repeat after so many: a prime, so that no buffer's size is a multiple.
const PERIOD: usize = 65_521;

const LISTENER: usize = usize::MAX;

/// Which way bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directions {
    /// From the clients to the origin.
    pub(crate) up: bool,
    /// From the origin to the clients.
    pub(crate) down: bool,
}

/// An origin and clients with streams between them.
pub(crate) struct Streams {
    waiter: Waiter,
    listener: TcpListener,
    ends: Vec<End>,
    directions: Directions,
    pattern: Box<[u8]>,
    buffer: Box<[u8]>,
    stopping: bool,
    /// Connections that the origin has accepted.
    pub(crate) accepted: u64,
    /// Bytes that were sent.
    pub(crate) sent: u64,
    /// Bytes that have arrived, all as they were sent.
    pub(crate) received: u64,
}

struct End {
    stream: TcpStream,
    sent: usize,
    received: usize,
    is_over: bool,
}

impl Streams {
    /// The origin listens from now on.
    pub(crate) fn new(directions: Directions) -> Result<Self> {
        let waiter = Waiter::new()?;
        let listener = listen(ORIGIN)?;
        waiter.add(&listener, LISTENER, EventFlags::IN)?;
        let mut state = 1_u32;
        let pattern = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x7f | 0x80 // no protocol begins so
        });
        let period: Vec<u8> = pattern.take(PERIOD).collect();
        Ok(Self {
            waiter,
            listener,
            ends: Vec::new(),
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

    /// Opens so many streams.
    pub(crate) fn open(&mut self, streams: usize, destination: SocketAddrV4) -> Result<()> {
        for _ in 0..streams {
            self.put(connect(destination)?, self.directions.up)?;
        }
        Ok(())
    }

    /// Lets them run.
    pub(crate) fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.turn()?;
        }
        Ok(())
    }

    /// Sends no more, and waits until all that was sent has arrived.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.stopping = true;
        let deadline = Instant::now() + DRAIN;
        for token in 0..self.ends.len() {
            self.say_no_more(token)?;
        }
        loop {
            let left = self.ends.iter().filter(|end| !end.is_over).count();
            if left == 0 {
                break;
            }
            within(deadline, "streams", left)?;
            self.turn()?;
        }
        ensure!(
            self.received == self.sent,
            "{} bytes were sent, {} arrived",
            self.sent,
            self.received
        );
        Ok(())
    }

    fn say_no_more(&mut self, token: usize) -> Result<()> {
        let end = &self.ends[token];
        if end.is_over {
            return Ok(());
        }
        end.stream.shutdown(Shutdown::Write).context("half-close")?;
        self.waiter.change(&end.stream, token, EventFlags::IN)
    }

    fn put(&mut self, stream: TcpStream, sends: bool) -> Result<()> {
        let flags = match sends {
            true => EventFlags::IN | EventFlags::OUT,
            false => EventFlags::IN,
        };
        self.waiter.add(&stream, self.ends.len(), flags)?;
        self.ends.push(End {
            stream,
            sent: 0,
            received: 0,
            is_over: false,
        });
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let events = self.waiter.wait(10)?;
        for event in &events {
            let (token, flags) = (event.data.u64() as usize, event.flags);
            if token == LISTENER {
                while let Some(stream) = accept(&self.listener)? {
                    self.accepted += 1;
                    self.put(stream, self.directions.down)?;
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
        self.waiter.give_back(events);
        Ok(())
    }

    fn send(&mut self, token: usize) -> Result<()> {
        let end = &mut self.ends[token];
        let place = end.sent % PERIOD;
        let written = end.stream.write(&self.pattern[place..place + CHUNK]);
        if blocks(&written) {
            return Ok(());
        }
        let written = written.context("send")?;
        end.sent += written;
        self.sent += written as u64;
        Ok(())
    }

    fn receive(&mut self, token: usize) -> Result<()> {
        let end = &mut self.ends[token];
        if end.is_over {
            return Ok(());
        }
        let read = end.stream.read(&mut self.buffer);
        if blocks(&read) {
            return Ok(());
        }
        let read = read.context("receive")?;
        if read == 0 {
            ensure!(self.stopping, "a stream ended before its time");
            end.is_over = true;
            let _ = end.stream.shutdown(Shutdown::Both); // it may be closed already
            return self.waiter.change(&end.stream, token, EventFlags::empty());
        }
        let place = end.received % PERIOD;
        ensure!(
            self.buffer[..read] == self.pattern[place..place + read],
            "wrong bytes arrived"
        );
        end.received += read;
        self.received += read as u64;
        Ok(())
    }
}
