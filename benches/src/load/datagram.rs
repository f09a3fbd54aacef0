//! UDP traffic: one request after another, or as many datagrams as go through.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::DATAGRAM_ORIGIN;
use super::socket::would_block;
use crate::sys::{ReceiveBuffers, set_segment_size};

/// The number of datagrams in flight in [`Echo::flood`]: as many of 1,400 bytes as the smallest
/// default socket buffer holds.
const WINDOW: usize = 64;
/// The most datagrams that one system call sends or receives.
const BATCH: usize = 32;
/// A response that takes longer than this counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// If this many in a row are lost, nothing goes through and the measurement fails.
const LOST_MAX: u32 = 20;
/// The first port of the clients.
const PORT_FIRST: u16 = 10_000;
/// The last port of the clients.
const PORT_LAST: u16 = 64_000;
/// The most flows in one measurement, so that the clients and the relay have a port for each.
const FLOWS_MAX: u64 = 20_000;
/// The length in bytes after which the pattern of the payloads repeats.
const PERIOD: usize = 251;

/// The result of one measurement.
pub(crate) struct EchoResult {
    /// The number of requests that were answered.
    pub(crate) answered: u64,
    /// The number of requests and responses that did not arrive.
    pub(crate) lost: u64,
    /// The number of clients' sockets, each with its own flow.
    pub(crate) flows: u64,
    /// How long the measurement took.
    pub(crate) elapsed: Duration,
    /// The time from each request to its response, sorted, in nanoseconds. Empty after a flood.
    pub(crate) times: Vec<u64>,
}

/// An origin that sends back what it receives, and its clients.
pub(crate) struct Echo {
    origin: UdpSocket,
    /// The size of each payload in bytes.
    size: usize,
    pattern: Vec<u8>,
    /// The port of the last client.
    port: u16,
    /// The number of clients' sockets of all measurements.
    pub(crate) flows: u64,
}

impl Echo {
    /// Opens the origin's socket. All payloads have `size` bytes.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let origin = UdpSocket::bind(DATAGRAM_ORIGIN).context("bind the origin")?;
        origin
            .set_nonblocking(true)
            .context("make the socket non-blocking")?;
        let pattern = (0..PERIOD).map(|value| value as u8).cycle();
        Ok(Self {
            origin,
            size,
            pattern: pattern.take(PERIOD + size).collect(),
            port: PORT_FIRST,
            flows: 0,
        })
    }

    /// Sends one request after another for this time. With `fresh`, each uses a new socket.
    ///
    /// The loop polls both sockets without sleeping, so that only the proxy has to be woken.
    pub(crate) fn ask(&mut self, fresh: bool, time: Duration) -> Result<EchoResult> {
        let (begun, flows, mut lost) = (Instant::now(), self.flows, 0);
        let mut times = Vec::new();
        let mut client = self.client()?;
        let mut number = 0_usize;
        let mut in_a_row = 0;
        while begun.elapsed() < time && self.flows - flows < FLOWS_MAX {
            let asked = Instant::now();
            if fresh && number > 0 {
                client = self.client()?;
            }
            if self.request(&client, number)? {
                times.push(asked.elapsed().as_nanos() as u64);
                in_a_row = 0;
            } else {
                lost += 1;
                in_a_row += 1;
                ensure!(in_a_row < LOST_MAX, "no datagram goes through");
            }
            number += 1;
        }
        let elapsed = begun.elapsed();
        times.sort_unstable();
        Ok(EchoResult {
            answered: times.len() as u64,
            lost,
            flows: self.flows - flows,
            elapsed,
            times,
        })
    }

    /// Sends as many datagrams as go through in one flow for this time, with at most [`WINDOW`] in
    /// flight.
    pub(crate) fn flood(&mut self, time: Duration) -> Result<EchoResult> {
        let client = self.client()?;
        for socket in [&client, &self.origin] {
            set_segment_size(socket, self.size).context("set UDP_SEGMENT")?;
        }
        let mut outgoing = vec![0; BATCH * self.size];
        let mut at_origin = ReceiveBuffers::new(BATCH, self.size);
        let mut incoming = ReceiveBuffers::new(BATCH, self.size);
        let (begun, mut last_arrival) = (Instant::now(), Instant::now());
        let (mut sent, mut answered, mut lost) = (0_usize, 0_u64, 0_u64);
        let mut in_flight = 0_usize;
        let mut in_a_row = 0;
        while begun.elapsed() < time {
            let allowed = WINDOW.saturating_sub(in_flight).min(BATCH);
            if allowed >= BATCH / 2 {
                for (place, payload) in outgoing.chunks_exact_mut(self.size).enumerate() {
                    payload.copy_from_slice(self.bytes(sent + place));
                }
                client
                    .send(&outgoing[..allowed * self.size])
                    .context("send")?;
                sent += allowed;
                in_flight += allowed;
            }
            let count = at_origin.receive(&self.origin)?;
            if count > 0 {
                let payloads = at_origin
                    .contiguous(count)
                    .context("a datagram was truncated")?;
                // The relay sent all of them from the same socket.
                self.origin
                    .send_to(payloads, at_origin.sender())
                    .context("answer")?;
            }
            let count = incoming.receive(&client)?;
            for place in 0..count {
                self.check(incoming.payload(place))?;
            }
            answered += count as u64;
            in_flight = in_flight.saturating_sub(count);
            if count > 0 {
                (last_arrival, in_a_row) = (Instant::now(), 0);
            } else if last_arrival.elapsed() > LOST_AFTER {
                lost += in_flight as u64;
                (last_arrival, in_flight, in_a_row) = (Instant::now(), 0, in_a_row + 1);
                ensure!(in_a_row < LOST_MAX, "no datagram goes through");
            }
        }
        Ok(EchoResult {
            answered,
            lost,
            flows: 1,
            elapsed: begun.elapsed(),
            times: Vec::new(),
        })
    }

    /// Opens a socket on a port that no flow used before. Connection tracking would take a used one
    /// for the old flow.
    fn client(&mut self) -> Result<UdpSocket> {
        let client = loop {
            ensure!(self.port < PORT_LAST, "no ports are left");
            self.port += 1;
            match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, self.port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                bound => break bound.context("bind a client")?,
            }
        };
        client
            .connect(DATAGRAM_ORIGIN)
            .context("connect a client")?;
        client
            .set_nonblocking(true)
            .context("make the socket non-blocking")?;
        self.flows += 1;
        Ok(client)
    }

    /// Sends a request, and returns whether the response arrived in time.
    fn request(&self, client: &UdpSocket, number: usize) -> Result<bool> {
        let mut buffer = [0; 2048];
        client.send(self.bytes(number)).context("send a request")?;
        let asked = Instant::now();
        loop {
            let request = self.origin.recv_from(&mut buffer);
            if !would_block(&request) {
                let (length, from): (usize, SocketAddr) = request.context("receive a request")?;
                self.origin
                    .send_to(&buffer[..length], from)
                    .context("answer")?;
            }
            let response = client.recv(&mut buffer);
            if !would_block(&response) {
                let length = response.context("receive a response")?;
                ensure!(
                    &buffer[..length] == self.bytes(number),
                    "a response has wrong bytes"
                );
                return Ok(true);
            }
            if asked.elapsed() > LOST_AFTER {
                return Ok(false);
            }
        }
    }

    /// The payload of the datagram with this number.
    fn bytes(&self, number: usize) -> &[u8] {
        &self.pattern[number % PERIOD..][..self.size]
    }

    /// Fails unless this is one of the payloads; the first byte identifies which one.
    fn check(&self, payload: &[u8]) -> Result<()> {
        let number = payload.first().copied().unwrap_or_default();
        ensure!(
            payload == self.bytes(number.into()),
            "a datagram has wrong bytes"
        );
        Ok(())
    }
}
