//! The beginning of one QUIC connection, up to its ClientHello.

use super::frames::{self, CryptoFrame};
use super::keys::Keys;
use super::packet::Initial;
use super::stream::{CryptoStream, agrees};
use super::{CRYPTO_SIZE_MAX, DATAGRAMS_MAX, Hello, QuicError, Reading, Version};
use crate::sniff::client_hello::{self, HandshakeMessage};

/// A connection of which an Initial packet was decrypted.
pub(super) struct QuicConnection {
    /// The version of the first packet.
    version: Version,
    /// The keys derived from the destination of the first packet. They stay the same when the
    /// client learns the server's connection ID. There are keys for both versions, since the server
    /// may choose the other one (RFC 9369, 4.1).
    keys: [(Version, Keys); 2],
    /// The numbers of the packets so far, while the ClientHello is incomplete.
    numbers: Vec<(Version, u64)>,
    /// The largest packet number.
    largest: Option<u64>,
    /// Number of datagrams that did not complete the ClientHello.
    datagrams: usize,
    state: HelloState,
}

/// What is known of the ClientHello.
enum HelloState {
    Reassembling(CryptoStream),
    /// It was read. `message` has its bytes, and those that were received after it.
    Read {
        message: Vec<u8>,
        hello: Hello,
    },
    Failed(QuicError),
}

impl QuicConnection {
    /// Makes a connection from its first packet, which `keys` decrypt.
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
            state: HelloState::Reassembling(CryptoStream::default()),
        }
    }

    /// Whether its ClientHello was read.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.state, HelloState::Read { .. })
    }

    /// Decrypts a packet. Returns its number and payload, or `None` if it is not of this connection.
    pub(super) fn open(&self, packet: &Initial<'_>) -> Option<(u64, Vec<u8>)> {
        let mut keys = self.keys.iter();
        let (_, keys) = keys.find(|(version, _)| *version == packet.version)?;
        keys.open(packet, self.largest)
    }

    /// Adds the decrypted payload of a packet.
    pub(super) fn add_packet(&mut self, version: Version, number: u64, payload: &[u8]) {
        self.largest = self.largest.max(Some(number));
        let added = match frames::crypto(payload) {
            Some(frames) => self.add_frames((version, number), &frames),
            None => Err(QuicError::Frame),
        };
        if let (Err(error), false) = (added, matches!(self.state, HelloState::Failed(_))) {
            self.state = HelloState::Failed(error);
        }
    }

    fn add_frames(
        &mut self,
        number: (Version, u64),
        frames: &[CryptoFrame<'_>],
    ) -> Result<(), QuicError> {
        let stream = match &mut self.state {
            HelloState::Failed(_) => return Ok(()),
            HelloState::Read { message, .. } => {
                let agree = frames.iter().all(|frame| agrees(message, frame));
                return if agree {
                    Ok(())
                } else {
                    Err(QuicError::Conflict)
                };
            }
            // Servers discard a packet whose number they have received before (RFC 9000, 12.3).
            HelloState::Reassembling(_) if self.numbers.contains(&number) => return Ok(()),
            HelloState::Reassembling(stream) => stream,
        };
        self.numbers.push(number);
        for frame in frames {
            stream.insert(frame)?;
        }
        match client_hello::read(stream.beginning(), CRYPTO_SIZE_MAX) {
            HandshakeMessage::Incomplete => {}
            HandshakeMessage::TooLong => return Err(QuicError::TooLong),
            HandshakeMessage::Other | HandshakeMessage::Malformed => {
                return Err(QuicError::NoHello);
            }
            HandshakeMessage::Hello(hello) => {
                self.state = HelloState::Read {
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

    /// What a datagram is. Call it once after all packets of the datagram were added.
    pub(super) fn reading(&mut self) -> Reading {
        if let HelloState::Reassembling(_) = self.state {
            self.datagrams += 1;
            if self.datagrams == DATAGRAMS_MAX {
                self.state = HelloState::Failed(QuicError::TooManyDatagrams);
            }
        }
        match &self.state {
            HelloState::Reassembling(_) => Reading::NeedMore,
            HelloState::Read { hello, .. } => Reading::Hello(hello.clone()),
            HelloState::Failed(error) => Reading::Malformed(*error),
        }
    }
}
