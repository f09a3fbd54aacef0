//! One connection's beginning.

use super::frames::{self, Crypto};
use super::keys::Keys;
use super::packet::Initial;
use super::stream::{Stream, agrees};
use super::{CRYPTO_SIZE_MAX, DATAGRAMS_MAX, Fault, Hello, Reading, Version};
use crate::sniff::tls::hello::{self, Message};

/// A connection of which an Initial packet was opened.
pub(super) struct Connection {
    version: Version,
    /// Of the first packet: they stay when the client learns the server's connection ID.
    keys: Keys,
    /// The packets' numbers, while the ClientHello is read.
    numbers: Vec<u64>,
    largest: Option<u64>,
    /// How many did not complete the ClientHello.
    datagrams: usize,
    state: State,
}

enum State {
    Open(Stream),
    Read { message: Vec<u8>, hello: Hello },
    Failed(Fault),
}

impl Connection {
    pub(super) fn new(version: Version, keys: Keys) -> Self {
        Self {
            version,
            keys,
            numbers: Vec::new(),
            largest: None,
            datagrams: 0,
            state: State::Open(Stream::default()),
        }
    }

    /// Whether its ClientHello was read.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.state, State::Read { .. })
    }

    /// The number and payload of a packet that is this connection's.
    pub(super) fn open(&self, packet: &Initial<'_>) -> Option<(u64, Vec<u8>)> {
        if packet.version != self.version {
            return None;
        }
        self.keys.open(packet, self.largest)
    }

    /// Takes in what was opened.
    pub(super) fn packet(&mut self, number: u64, payload: &[u8]) {
        self.largest = self.largest.max(Some(number));
        let taken = match frames::crypto(payload) {
            Some(pieces) => self.pieces(number, &pieces),
            None => Err(Fault::Frame),
        };
        if let (Err(fault), false) = (taken, matches!(self.state, State::Failed(_))) {
            self.state = State::Failed(fault);
        }
    }

    fn pieces(&mut self, number: u64, pieces: &[Crypto<'_>]) -> Result<(), Fault> {
        let stream = match &mut self.state {
            State::Failed(_) => return Ok(()),
            State::Read { message, .. } => {
                let agree = pieces.iter().all(|piece| agrees(message, piece));
                return if agree { Ok(()) } else { Err(Fault::Conflict) };
            }
            // Servers take a number once only (RFC 9000, 12.3).
            State::Open(_) if self.numbers.contains(&number) => return Ok(()),
            State::Open(stream) => stream,
        };
        self.numbers.push(number);
        for piece in pieces {
            stream.insert(piece)?;
        }
        match hello::read(stream.beginning(), CRYPTO_SIZE_MAX) {
            Message::Part => {}
            Message::TooLong => return Err(Fault::TooLong),
            Message::Other | Message::Damaged => return Err(Fault::NoHello),
            Message::Hello(hello) => {
                self.state = State::Read {
                    message: stream.beginning().to_vec(),
                    hello: Hello {
                        sni: hello.sni,
                        alpn: hello.alpn,
                        version: self.version,
                    },
                };
                self.numbers = Vec::new();
            }
        }
        Ok(())
    }

    /// What can be said after a datagram.
    pub(super) fn reading(&mut self) -> Reading {
        if let State::Open(_) = self.state {
            self.datagrams += 1;
            if self.datagrams == DATAGRAMS_MAX {
                self.state = State::Failed(Fault::TooManyDatagrams);
            }
        }
        match &self.state {
            State::Open(_) => Reading::NeedMore,
            State::Read { hello, .. } => Reading::Hello(hello.clone()),
            State::Failed(fault) => Reading::Malformed(*fault),
        }
    }
}
