//! One connection's beginning.

use super::frames::{self, Crypto};
use super::keys::Keys;
use super::packet::Initial;
use super::stream::{Stream, agrees};
use super::{CRYPTO_SIZE_MAX, DATAGRAMS_MAX, Fault, Hello, Reading, Version};
use crate::sniff::tls::hello::{self, Message};

/// A connection of which an Initial packet was opened.
pub(super) struct Connection {
    /// Of the first packet.
    version: Version,
    /// From the first packet's destination: they stay when the client learns the server's connection
    /// ID. Of both versions, as the server may go over to the other (RFC 9369, 4.1).
    keys: [(Version, Keys); 2],
    /// The packets' numbers, while the ClientHello is read.
    numbers: Vec<(Version, u64)>,
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
    /// A connection whose first packet this is, which `keys` open.
    pub(super) fn new(first: &Initial<'_>, keys: Keys) -> Self {
        let other = match first.version {
            Version::V1 => Version::V2,
            Version::V2 => Version::V1,
        };
        let others = Keys::of_client(other, first.destination);
        Self {
            version: first.version,
            keys: [(first.version, keys), (other, others)],
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
        let mut keys = self.keys.iter();
        let (_, keys) = keys.find(|(version, _)| *version == packet.version)?;
        keys.open(packet, self.largest)
    }

    /// Takes in what was opened of a packet of this version.
    pub(super) fn packet(&mut self, version: Version, number: u64, payload: &[u8]) {
        self.largest = self.largest.max(Some(number));
        let taken = match frames::crypto(payload) {
            Some(pieces) => self.pieces((version, number), &pieces),
            None => Err(Fault::Frame),
        };
        if let (Err(fault), false) = (taken, matches!(self.state, State::Failed(_))) {
            self.state = State::Failed(fault);
        }
    }

    fn pieces(&mut self, number: (Version, u64), pieces: &[Crypto<'_>]) -> Result<(), Fault> {
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
