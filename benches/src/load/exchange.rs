//! HTTP requests and responses: in a closed loop, in an open loop, or in connections that are kept
//! open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::EventFlags;

use super::socket::{Poller, accept, connect, listen, would_block};
use super::{DRAIN_MAX, ORIGIN, REQUEST, ensure_before};

/// The length of the response, head and body, in bytes.
const RESPONSE_SIZE: usize = 1024;
/// The head of the response. Its Content-Length has to match [`RESPONSE_SIZE`].
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0957\r\n\r\n";
/// If an open loop has this many connections at once, the proxy cannot keep up and the measurement
/// fails.
const WAITING_MAX: usize = 8192;
/// The most connections that are opened at the same time in [`Exchange::hold`].
const OPENING_MAX: usize = 128;

/// The epoll token of the listener; all other tokens are indices of sockets.
const LISTENER: usize = usize::MAX;

/// When requests start.
#[derive(Clone, Copy)]
pub(crate) enum Arrivals {
    /// A closed loop with this number of clients; each sends its next request when it has the
    /// response.
    Closed(usize),
    /// An open loop with this number of requests per second, each in a new connection and whether
    /// or not earlier ones have ended.
    Open(f64),
}

/// The result of one measurement.
pub(crate) struct ExchangeResult {
    /// The number of exchanges that were complete when the time was over.
    pub(crate) exchanges: u64,
    /// The number of connections that were opened, including those that ended after the time.
    pub(crate) connections: u64,
    /// How long the measurement took.
    pub(crate) elapsed: Duration,
    /// The time from the connect, or from the intended start in an open loop, to the complete
    /// response; sorted, in nanoseconds.
    pub(crate) times: Vec<u64>,
    /// The same up to the first byte of the response.
    pub(crate) firsts: Vec<u64>,
}

/// An origin, and clients that send requests to it.
pub(crate) struct Exchange {
    poller: Poller,
    listener: TcpListener,
    /// The address that clients connect to.
    destination: SocketAddrV4,
    /// The sockets of both sides; the index is the epoll token.
    sockets: Vec<Option<ExchangeSocket>>,
    /// The unused indices of `sockets`.
    free: Vec<usize>,
    response: Vec<u8>,
    buffer: Box<[u8]>,
    /// The number of connections that clients opened in all measurements.
    pub(crate) made: u64,
    /// The number of connections that the origin accepted in all measurements.
    pub(crate) accepted: u64,
    /// The number of clients that are connected.
    clients: usize,
    /// Whether a client sends all its requests in the same connection.
    keep: bool,
    /// Whether a client sends a new request after a response.
    repeat: bool,
    times: Vec<u64>,
    firsts: Vec<u64>,
}

/// The socket of one side of a connection.
struct ExchangeSocket {
    stream: TcpStream,
    is_client: bool,
    /// Whether the client sent its first request.
    has_sent: bool,
    /// Whether the client waits for a response.
    is_waiting: bool,
    /// The number of bytes received of the current request or response.
    received: usize,
    /// When the exchange started.
    begun: Instant,
}

impl Exchange {
    /// Opens the origin's listener. Clients will connect to `destination`.
    pub(crate) fn new(destination: SocketAddrV4) -> Result<Self> {
        let poller = Poller::new()?;
        let listener = listen(ORIGIN)?;
        poller.add(&listener, LISTENER, EventFlags::IN)?;
        let mut response = HEAD.to_vec();
        response.extend((0_u8..=250).cycle().take(RESPONSE_SIZE - HEAD.len()));
        Ok(Self {
            poller,
            listener,
            destination,
            sockets: Vec::new(),
            free: Vec::new(),
            response,
            buffer: vec![0; 64 * 1024].into(),
            made: 0,
            accepted: 0,
            clients: 0,
            keep: false,
            repeat: false,
            times: Vec::new(),
            firsts: Vec::new(),
        })
    }

    /// Runs exchanges for this time. With `keep`, each client uses one connection for all its
    /// exchanges, else a new one for each.
    pub(crate) fn run(
        &mut self,
        arrivals: Arrivals,
        keep: bool,
        time: Duration,
    ) -> Result<ExchangeResult> {
        let (begun, made) = (Instant::now(), self.made);
        self.keep = keep;
        self.repeat = matches!(arrivals, Arrivals::Closed(_));
        self.times.clear();
        self.firsts.clear();
        match arrivals {
            Arrivals::Closed(clients) => {
                for _ in 0..clients {
                    self.connect_client(Instant::now())?;
                }
                while begun.elapsed() < time {
                    self.handle_events(100)?;
                }
            }
            Arrivals::Open(rate) => self.run_open(begun, rate, time)?,
        }
        let (elapsed, exchanges) = (begun.elapsed(), self.times.len() as u64);
        self.repeat = false;
        self.drain()?;
        let mut times = std::mem::take(&mut self.times);
        let mut firsts = std::mem::take(&mut self.firsts);
        times.sort_unstable();
        firsts.sort_unstable();
        Ok(ExchangeResult {
            exchanges,
            connections: self.made - made,
            elapsed,
            times,
            firsts,
        })
    }

    /// Starts each request at its intended moment, whether or not earlier ones have ended. Never
    /// sleeps, because a wake-up would be late.
    fn run_open(&mut self, begun: Instant, rate: f64, time: Duration) -> Result<()> {
        let mut number = 0_u64;
        while begun.elapsed() < time {
            let intended = begun + Duration::from_secs_f64(number as f64 / rate);
            if Instant::now() >= intended {
                self.connect_client(intended)?;
                number += 1;
            }
            self.handle_events(0)?;
            ensure!(
                self.clients < WAITING_MAX,
                "the proxy cannot keep up with {rate} requests per second"
            );
        }
        Ok(())
    }

    /// Opens this number of connections, runs one exchange in each, and keeps them open.
    pub(crate) fn hold(&mut self, connections: usize) -> Result<()> {
        self.keep = true;
        self.repeat = false;
        self.times.clear();
        let deadline = Instant::now() + DRAIN_MAX * 3;
        let mut opened = 0;
        while self.times.len() < connections {
            while opened < connections && opened - self.times.len() < OPENING_MAX {
                self.connect_client(Instant::now())?;
                opened += 1;
            }
            self.handle_events(100)?;
            ensure_before(
                deadline,
                "connections to keep open",
                connections - self.times.len(),
            )?;
        }
        Ok(())
    }

    fn connect_client(&mut self, begun: Instant) -> Result<()> {
        let stream = connect(self.destination)?;
        self.made += 1;
        self.clients += 1;
        self.add(stream, true, begun)
    }

    fn add(&mut self, stream: TcpStream, is_client: bool, begun: Instant) -> Result<()> {
        let token = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        let flags = match is_client {
            true => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
            false => EventFlags::IN,
        };
        self.poller.add(&stream, token, flags)?;
        self.sockets[token] = Some(ExchangeSocket {
            stream,
            is_client,
            has_sent: false,
            is_waiting: is_client,
            received: 0,
            begun,
        });
        Ok(())
    }

    fn handle_events(&mut self, milliseconds: i64) -> Result<()> {
        let events = self.poller.wait(milliseconds)?;
        for event in &events {
            match event.data.u64() as usize {
                LISTENER => self.accept()?,
                token => self.serve(token)?,
            }
        }
        self.poller.recycle(events);
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(stream) = accept(&self.listener)? {
            self.accepted += 1;
            self.add(stream, false, Instant::now())?;
        }
        Ok(())
    }

    fn serve(&mut self, token: usize) -> Result<()> {
        let Some(socket) = self.sockets[token].as_mut() else {
            return Ok(()); // an earlier event of the same list closed it
        };
        if socket.is_client && !socket.has_sent {
            socket.has_sent = true;
            let written = socket.stream.write(REQUEST).context("send a request")?;
            ensure!(
                written == REQUEST.len(),
                "a request did not fit into the send buffer"
            );
        }
        let expected = if socket.is_client {
            &self.response[..]
        } else {
            REQUEST
        };
        let read = socket.stream.read(&mut self.buffer);
        if would_block(&read) {
            return Ok(());
        }
        let read = read.context("read")?;
        if read == 0 {
            ensure!(
                !socket.is_client,
                "the proxy closed the connection of a client"
            );
            self.remove(token);
            return Ok(());
        }
        let part = expected.get(socket.received..socket.received + read);
        ensure!(
            part == Some(&self.buffer[..read]),
            "a request or response has wrong bytes"
        );
        if socket.is_client && socket.received == 0 {
            self.firsts.push(socket.begun.elapsed().as_nanos() as u64);
        }
        socket.received += read;
        if socket.received < expected.len() {
            return Ok(());
        }
        socket.received = 0;
        if socket.is_client {
            return self.complete(token);
        }
        let written = socket
            .stream
            .write(&self.response)
            .context("send a response")?;
        ensure!(
            written == self.response.len(),
            "a response did not fit into the send buffer"
        );
        Ok(())
    }

    /// A client has its whole response.
    fn complete(&mut self, token: usize) -> Result<()> {
        let socket = self.sockets[token]
            .as_mut()
            .expect("the caller has just used it");
        self.times.push(socket.begun.elapsed().as_nanos() as u64);
        if self.keep {
            if self.repeat {
                socket.begun = Instant::now();
                socket.stream.write_all(REQUEST).context("send a request")?;
            }
            socket.is_waiting = self.repeat;
            return Ok(());
        }
        self.remove(token);
        self.clients -= 1;
        if self.repeat {
            self.connect_client(Instant::now())?;
        }
        Ok(())
    }

    fn remove(&mut self, token: usize) {
        self.sockets[token] = None;
        self.free.push(token);
    }

    /// Closes kept connections, and waits until both sides of all connections are closed.
    fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_MAX;
        if self.keep {
            while self
                .sockets
                .iter()
                .flatten()
                .any(|socket| socket.is_client && socket.is_waiting)
            {
                ensure_before(deadline, "exchanges", self.clients)?;
                self.handle_events(10)?;
            }
            let sockets = self.sockets.iter().flatten();
            for socket in sockets.filter(|socket| socket.is_client) {
                socket
                    .stream
                    .shutdown(Shutdown::Write)
                    .context("half-close")?;
            }
        }
        loop {
            let left = self.sockets.iter().flatten().count();
            if left == 0 {
                self.clients = 0;
                return Ok(());
            }
            ensure_before(deadline, "connections", left)?;
            self.handle_events_while_draining()?;
        }
    }

    /// Handles events as [`handle_events`](Self::handle_events) does. In kept connections, all
    /// responses have been compared, so that only the end of the connection is still expected.
    fn handle_events_while_draining(&mut self) -> Result<()> {
        if !self.keep {
            return self.handle_events(10);
        }
        let events = self.poller.wait(10)?;
        for event in &events {
            let token = event.data.u64() as usize;
            let Some(socket) = self.sockets.get_mut(token).and_then(Option::as_mut) else {
                continue;
            };
            loop {
                match socket.stream.read(&mut self.buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Ok(length) if length > 0 => {}
                    // Some proxies reset idle connections; no bytes were in flight.
                    _ => {
                        self.remove(token);
                        break;
                    }
                }
            }
        }
        self.poller.recycle(events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_length_of_the_response_is_right() {
        let body = RESPONSE_SIZE - HEAD.len();
        let head = std::str::from_utf8(HEAD).expect("the head is text");
        assert!(head.contains(&format!("Content-Length: 0{body}")), "{body}");
    }
}
