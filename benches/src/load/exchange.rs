//! Requests and responses: closed loop, open loop, or held open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::EventFlags;

use super::socket::{Waiter, accept, blocks, connect, listen};
use super::{DRAIN, ORIGIN, within};

/// What a client asks: an HTTP request, as an inspecting proxy looks for one.
const REQUEST: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: origin.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
/// The response's length, head and body, in bytes.
const RESPONSE_SIZE: usize = 1024;
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0957\r\n\r\n";
/// More at once in an open loop say that the proxy cannot keep up.
const WAITING_MAX: usize = 8192;
/// Connections that are being made at once when many are to be held.
const OPENING_MAX: usize = 128;

const LISTENER: usize = usize::MAX;

/// How requests come.
#[derive(Clone, Copy)]
pub(crate) enum Arrivals {
    /// So many clients; each goes on when it has its answer.
    Closed(usize),
    /// So many a second, whatever becomes of the others; each in a connection of its own.
    Open(f64),
}

/// What came of it.
pub(crate) struct Outcome {
    /// Exchanges that were done within the time.
    pub(crate) exchanges: u64,
    /// Connections that were made, to the last.
    pub(crate) connections: u64,
    /// How long the exchanges took.
    pub(crate) elapsed: Duration,
    /// From connect, or from the intended moment, to the whole answer; sorted, in nanoseconds.
    pub(crate) times: Vec<u64>,
}

/// An origin, and clients that ask it.
pub(crate) struct Exchange {
    waiter: Waiter,
    listener: TcpListener,
    destination: SocketAddrV4,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    response: Vec<u8>,
    buffer: Box<[u8]>,
    /// Connections made in all.
    pub(crate) made: u64,
    /// Connections that the origin has accepted in all.
    pub(crate) accepted: u64,
    clients: usize,
    keep: bool,
    going_on: bool,
    times: Vec<u64>,
}

struct End {
    stream: TcpStream,
    is_client: bool,
    sent: bool,
    /// For an answer.
    waits: bool,
    got: usize,
    begun: Instant,
}

impl Exchange {
    /// The origin listens from now on; clients go to `destination`.
    pub(crate) fn new(destination: SocketAddrV4) -> Result<Self> {
        let waiter = Waiter::new()?;
        let listener = listen(ORIGIN)?;
        waiter.add(&listener, LISTENER, EventFlags::IN)?;
        let mut response = HEAD.to_vec();
        response.extend((0_u8..=250).cycle().take(RESPONSE_SIZE - HEAD.len()));
        Ok(Self {
            waiter,
            listener,
            destination,
            ends: Vec::new(),
            free: Vec::new(),
            response,
            buffer: vec![0; 64 * 1024].into(),
            made: 0,
            accepted: 0,
            clients: 0,
            keep: false,
            going_on: false,
            times: Vec::new(),
        })
    }

    /// Exchanges for so long; `keep`: in one connection for each client, else in one for each exchange.
    pub(crate) fn run(
        &mut self,
        arrivals: Arrivals,
        keep: bool,
        time: Duration,
    ) -> Result<Outcome> {
        let (begun, made) = (Instant::now(), self.made);
        self.keep = keep;
        self.going_on = matches!(arrivals, Arrivals::Closed(_));
        self.times.clear();
        match arrivals {
            Arrivals::Closed(clients) => {
                for _ in 0..clients {
                    self.begin(Instant::now())?;
                }
                while begun.elapsed() < time {
                    self.turn(100)?;
                }
            }
            Arrivals::Open(rate) => self.run_open(begun, rate, time)?,
        }
        let (elapsed, exchanges) = (begun.elapsed(), self.times.len() as u64);
        self.going_on = false;
        self.drain()?;
        let mut times = std::mem::take(&mut self.times);
        times.sort_unstable();
        Ok(Outcome {
            exchanges,
            connections: self.made - made,
            elapsed,
            times,
        })
    }

    /// At its moment each, whether or not earlier ones are done. Never sleeps: a wake-up would come late.
    fn run_open(&mut self, begun: Instant, rate: f64, time: Duration) -> Result<()> {
        let mut number = 0_u64;
        while begun.elapsed() < time {
            let intended = begun + Duration::from_secs_f64(number as f64 / rate);
            if Instant::now() >= intended {
                self.begin(intended)?;
                number += 1;
            }
            self.turn(0)?;
            ensure!(
                self.clients < WAITING_MAX,
                "it cannot keep up with {rate} requests a second"
            );
        }
        Ok(())
    }

    /// Makes so many connections, with one exchange in each, and keeps them open.
    pub(crate) fn hold(&mut self, connections: usize) -> Result<()> {
        self.keep = true;
        self.going_on = false;
        self.times.clear();
        let deadline = Instant::now() + DRAIN * 3;
        let mut opened = 0;
        while self.times.len() < connections {
            while opened < connections && opened - self.times.len() < OPENING_MAX {
                self.begin(Instant::now())?;
                opened += 1;
            }
            self.turn(100)?;
            within(
                deadline,
                "connections to be held",
                connections - self.times.len(),
            )?;
        }
        Ok(())
    }

    fn begin(&mut self, begun: Instant) -> Result<()> {
        let stream = connect(self.destination)?;
        self.made += 1;
        self.clients += 1;
        self.put(stream, true, begun)
    }

    fn put(&mut self, stream: TcpStream, is_client: bool, begun: Instant) -> Result<()> {
        let token = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        let flags = match is_client {
            true => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
            false => EventFlags::IN,
        };
        self.waiter.add(&stream, token, flags)?;
        self.ends[token] = Some(End {
            stream,
            is_client,
            sent: false,
            waits: is_client,
            got: 0,
            begun,
        });
        Ok(())
    }

    fn turn(&mut self, milliseconds: i64) -> Result<()> {
        let events = self.waiter.wait(milliseconds)?;
        for event in &events {
            match event.data.u64() as usize {
                LISTENER => self.accept()?,
                token => self.serve(token)?,
            }
        }
        self.waiter.give_back(events);
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(stream) = accept(&self.listener)? {
            self.accepted += 1;
            self.put(stream, false, Instant::now())?;
        }
        Ok(())
    }

    fn serve(&mut self, token: usize) -> Result<()> {
        let Some(end) = self.ends[token].as_mut() else {
            return Ok(()); // closed by an event of the same turn
        };
        if end.is_client && !end.sent {
            end.sent = true;
            let written = end.stream.write(REQUEST).context("send a request")?;
            ensure!(written == REQUEST.len(), "a request did not fit");
        }
        let wanted = if end.is_client {
            &self.response[..]
        } else {
            REQUEST
        };
        let read = end.stream.read(&mut self.buffer);
        if blocks(&read) {
            return Ok(());
        }
        let read = read.context("read")?;
        if read == 0 {
            ensure!(!end.is_client, "a client's connection was closed on it");
            self.remove(token);
            return Ok(());
        }
        let expected = wanted.get(end.got..end.got + read);
        ensure!(
            expected == Some(&self.buffer[..read]),
            "wrong bytes arrived"
        );
        end.got += read;
        if end.got < wanted.len() {
            return Ok(());
        }
        end.got = 0;
        if end.is_client {
            return self.complete(token);
        }
        let written = end.stream.write(&self.response).context("answer")?;
        ensure!(written == self.response.len(), "a response did not fit");
        Ok(())
    }

    /// A client has its answer.
    fn complete(&mut self, token: usize) -> Result<()> {
        let end = self.ends[token].as_mut().expect("it was just served");
        self.times.push(end.begun.elapsed().as_nanos() as u64);
        if self.keep {
            if self.going_on {
                end.begun = Instant::now();
                end.stream.write_all(REQUEST).context("send a request")?;
            }
            end.waits = self.going_on;
            return Ok(());
        }
        self.remove(token);
        self.clients -= 1;
        if self.going_on {
            self.begin(Instant::now())?;
        }
        Ok(())
    }

    fn remove(&mut self, token: usize) {
        self.ends[token] = None;
        self.free.push(token);
    }

    /// Closes what is kept, and waits until both ends of all are gone.
    fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + DRAIN;
        if self.keep {
            while self
                .ends
                .iter()
                .flatten()
                .any(|end| end.is_client && end.waits)
            {
                within(deadline, "answers", self.clients)?;
                self.turn(10)?;
            }
            for end in self.ends.iter().flatten().filter(|end| end.is_client) {
                end.stream.shutdown(Shutdown::Write).context("close")?;
            }
        }
        loop {
            let left = self.ends.iter().flatten().count();
            if left == 0 {
                self.clients = 0;
                return Ok(());
            }
            within(deadline, "connections", left)?;
            self.turn_draining()?;
        }
    }

    /// As [`turn`](Self::turn); of kept connections all answers have been compared, and what is left to come
    /// is their end.
    fn turn_draining(&mut self) -> Result<()> {
        if !self.keep {
            return self.turn(10);
        }
        let events = self.waiter.wait(10)?;
        for event in &events {
            let token = event.data.u64() as usize;
            let Some(end) = self.ends.get_mut(token).and_then(Option::as_mut) else {
                continue;
            };
            loop {
                match end.stream.read(&mut self.buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Ok(length) if length > 0 => {}
                    // Some proxies end idle connections by a reset; nothing was under way.
                    _ => {
                        self.remove(token);
                        break;
                    }
                }
            }
        }
        self.waiter.give_back(events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_as_long_as_its_head_says() {
        let body = RESPONSE_SIZE - HEAD.len();
        let head = std::str::from_utf8(HEAD).expect("it is text");
        assert!(head.contains(&format!("Content-Length: 0{body}")), "{body}");
    }
}
