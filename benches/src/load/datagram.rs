//! Datagrams: one question after another, or as many as go through.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::DATAGRAM_ORIGIN;
use super::socket::blocks;
use crate::sys::Mailbox;

/// Datagrams on their way at once in [`Echo::flood`]: what the smallest default buffer of a socket
/// takes of 1,400 bytes each.
const WINDOW: usize = 64;
/// Datagrams sent or received at once.
const BATCH: usize = 32;
/// An answer that takes longer is taken for lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// So many lost ones in a row say that nothing goes through.
const LOST_MAX: u32 = 20;
/// The bytes of datagrams repeat after so many.
const PERIOD: usize = 251;

/// What came of it.
pub(crate) struct Outcome {
    /// Questions that were answered.
    pub(crate) answered: u64,
    /// Questions or answers that did not arrive.
    pub(crate) lost: u64,
    /// Sockets that were used, each with a flow of its own.
    pub(crate) flows: u64,
    /// All in all.
    pub(crate) elapsed: Duration,
    /// Of each question, sorted, in nanoseconds; empty after a flood.
    pub(crate) times: Vec<u64>,
}

/// An origin that sends back what it gets, and a client.
pub(crate) struct Echo {
    origin: UdpSocket,
    size: usize,
    pattern: Vec<u8>,
    /// Sockets that have sent something in all.
    pub(crate) flows: u64,
}

impl Echo {
    /// The origin takes datagrams from now on; all are of `size` bytes.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let origin = UdpSocket::bind(DATAGRAM_ORIGIN).context("bind the origin")?;
        origin.set_nonblocking(true).context("not block")?;
        let pattern = (0..PERIOD).map(|value| value as u8).cycle();
        Ok(Self {
            origin,
            size,
            pattern: pattern.take(PERIOD + size).collect(),
            flows: 0,
        })
    }

    /// One question after another for so long; each from a socket of its own if `fresh`.
    ///
    /// Both sockets are looked at in turn without a pause, so that nobody but the proxy is woken.
    pub(crate) fn ask(&mut self, fresh: bool, time: Duration) -> Result<Outcome> {
        let (begun, flows, mut lost) = (Instant::now(), self.flows, 0);
        let mut times = Vec::new();
        let mut client = self.client()?;
        let mut number = 0_usize;
        let mut in_a_row = 0;
        while begun.elapsed() < time {
            let asked = Instant::now();
            if fresh && number > 0 {
                client = self.client()?;
            }
            if self.question(&client, number)? {
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
        Ok(Outcome {
            answered: times.len() as u64,
            lost,
            flows: self.flows - flows,
            elapsed,
            times,
        })
    }

    /// As many as go through in one flow, with [`WINDOW`] on their way.
    pub(crate) fn flood(&mut self, time: Duration) -> Result<Outcome> {
        let client = self.client()?;
        let mut outgoing = Mailbox::new(BATCH, self.size);
        let mut origin_box = Mailbox::new(BATCH, self.size);
        let mut incoming = Mailbox::new(BATCH, self.size);
        let (begun, mut moved) = (Instant::now(), Instant::now());
        let (mut sent, mut answered, mut lost) = (0_usize, 0_u64, 0_u64);
        let mut on_the_way = 0_usize;
        let mut in_a_row = 0;
        while begun.elapsed() < time {
            let room = WINDOW.saturating_sub(on_the_way).min(BATCH);
            if room >= BATCH / 2 {
                for place in 0..room {
                    let bytes = self.bytes(sent + place);
                    outgoing.room(place).copy_from_slice(bytes);
                }
                let count = outgoing.send(&client, room, self.size)?;
                sent += count;
                on_the_way += count;
            }
            let count = origin_box.receive(&self.origin)?;
            if count > 0 {
                origin_box.send_back(&self.origin, count)?;
            }
            let count = incoming.receive(&client)?;
            for place in 0..count {
                self.check(incoming.payload(place))?;
            }
            answered += count as u64;
            on_the_way = on_the_way.saturating_sub(count);
            if count > 0 {
                (moved, in_a_row) = (Instant::now(), 0);
            } else if moved.elapsed() > LOST_AFTER {
                lost += on_the_way as u64;
                (moved, on_the_way, in_a_row) = (Instant::now(), 0, in_a_row + 1);
                ensure!(in_a_row < LOST_MAX, "no datagram goes through");
            }
        }
        Ok(Outcome {
            answered,
            lost,
            flows: 1,
            elapsed: begun.elapsed(),
            times: Vec::new(),
        })
    }

    fn client(&mut self) -> Result<UdpSocket> {
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind a client")?;
        client
            .connect(DATAGRAM_ORIGIN)
            .context("connect a client")?;
        client.set_nonblocking(true).context("not block")?;
        self.flows += 1;
        Ok(client)
    }

    /// Whether it was answered.
    fn question(&self, client: &UdpSocket, number: usize) -> Result<bool> {
        let mut buffer = [0; 2048];
        client.send(self.bytes(number)).context("ask")?;
        let asked = Instant::now();
        loop {
            let taken = self.origin.recv_from(&mut buffer);
            if !blocks(&taken) {
                let (length, from): (usize, SocketAddr) = taken.context("take a question")?;
                self.origin
                    .send_to(&buffer[..length], from)
                    .context("answer")?;
            }
            let answer = client.recv(&mut buffer);
            if !blocks(&answer) {
                let length = answer.context("take an answer")?;
                ensure!(&buffer[..length] == self.bytes(number), "a wrong answer");
                return Ok(true);
            }
            if asked.elapsed() > LOST_AFTER {
                return Ok(false);
            }
        }
    }

    /// The datagram of this number.
    fn bytes(&self, number: usize) -> &[u8] {
        &self.pattern[number % PERIOD..][..self.size]
    }

    /// Whether it is one of ours: its first byte tells which.
    fn check(&self, payload: &[u8]) -> Result<()> {
        let number = payload.first().copied().unwrap_or_default();
        ensure!(payload == self.bytes(number.into()), "wrong bytes arrived");
        Ok(())
    }
}
