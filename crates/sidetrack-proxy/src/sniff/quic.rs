//! Reads the first datagrams of a QUIC client: the Initial packets of version 1 (RFC 9000, RFC
//! 9001) and version 2 (RFC 9369), and the ClientHello in them.
//!
//! Anyone can decrypt a client's Initial packets, since their keys are derived from the connection
//! ID that the client chose for the server. All are pure functions of untrusted bytes, and do not
//! panic.
//!
//! A datagram that servers may understand in different ways is malformed. Otherwise the reader
//! could see another name than the server. The second ClientHello, which a client sends after a
//! HelloRetryRequest, is not read; it must not name another server (RFC 8446, 4.1.2).

use std::fmt;

use thiserror::Error;

mod connection;
mod cursor;
mod frames;
mod keys;
mod packet;
mod stream;

use connection::QuicConnection;
use keys::Keys;
use packet::Initial;

/// The number of bytes of CRYPTO frames that are read: the ClientHello and what follows it.
pub const CRYPTO_SIZE_MAX: usize = 16 * 1024;
/// The number of datagrams over which a ClientHello may be spread. Browsers need two or three.
pub const DATAGRAMS_MAX: usize = 8;
/// The number of packets that one datagram may contain.
pub const PACKETS_MAX: usize = 16;
/// The number of connections that one reader follows. A client may open several from one socket,
/// and a Retry begins another one.
pub const CONNECTIONS_MAX: usize = 4;
/// The shortest datagram with an Initial packet, in bytes. Servers must discard shorter ones (RFC
/// 9000, 14.1).
pub const INITIAL_SIZE_MIN: usize = 1200;

/// Reads the datagrams that one client sends from one address to another.
///
/// For each connection it keeps at most [`CRYPTO_SIZE_MAX`] bytes with a flag for each, and after
/// the ClientHello was read, only these bytes.
#[derive(Default)]
pub struct InitialReader {
    connections: Vec<QuicConnection>,
}

/// What a datagram is, taking into account those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not QUIC.
    NotQuic,
    /// QUIC of a version that is not read, or another protocol whose bytes look like one.
    OtherVersion(u32),
    /// QUIC, but no packet with which a client begins.
    NotInitial(PacketType),
    /// Initial packets, but the ClientHello is still incomplete.
    NeedMore,
    /// Initial packets of a connection whose ClientHello is complete, since this datagram or an
    /// earlier one.
    Hello(Hello),
    /// QUIC, but malformed. A connection whose ClientHello is malformed stays malformed.
    Malformed(QuicError),
}

/// The types of packets other than Initial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// Version Negotiation, which only servers send.
    VersionNegotiation,
    /// 0-RTT: data before the handshake has completed.
    ZeroRtt,
    /// Handshake: the rest of the handshake.
    Handshake,
    /// Retry, which only servers send.
    Retry,
    /// A packet with a short header: data. This is uncertain, since a quarter of all first bytes
    /// look like one.
    Short,
}

/// The reported parts of a ClientHello. The texts come from the client and may contain any character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The server's name, in lower case; `None` if the client sent none.
    pub sni: Option<String>,
    /// The application protocols offered, such as "h3", in the client's order;
    /// [`ALPN_ENTRIES_MAX`](super::ALPN_ENTRIES_MAX) at most.
    pub alpn: Vec<String>,
    /// The version of QUIC that the client began with.
    pub version: Version,
}

/// A version of QUIC that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1 (RFC 9000).
    V1,
    /// Version 2 (RFC 9369).
    V2,
}

/// Why QUIC is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuicError {
    /// A long header has lengths that are not possible.
    #[error("a header that cannot be read")]
    Header,
    /// A datagram with an Initial packet is shorter than [`INITIAL_SIZE_MIN`].
    #[error("an Initial packet in too short a datagram")]
    DatagramTooShort,
    /// A datagram has packets to different connection IDs (RFC 9000, 12.2).
    #[error("packets of different connections in one datagram")]
    Coalesced,
    /// A datagram has more than [`PACKETS_MAX`] packets.
    #[error("too many packets in one datagram")]
    TooManyPackets,
    /// An Initial packet cannot be decrypted: it is damaged, or belongs to a connection whose
    /// beginning was not read.
    #[error("an Initial packet that cannot be decrypted")]
    Undecryptable,
    /// A frame is cut, or is not allowed in a client's Initial packet (RFC 9000, 12.4).
    #[error("a frame that is not allowed")]
    Frame,
    /// The CRYPTO frames have more than [`CRYPTO_SIZE_MAX`] bytes.
    #[error("the ClientHello is too long")]
    TooLong,
    /// Two CRYPTO frames have different bytes for the same offset.
    #[error("the ClientHello contradicts itself")]
    Conflict,
    /// The handshake does not begin with a ClientHello, or with one that cannot be parsed.
    #[error("no ClientHello")]
    NoHello,
    /// The ClientHello is still incomplete after [`DATAGRAMS_MAX`] datagrams.
    #[error("the ClientHello is spread over too many datagrams")]
    TooManyDatagrams,
    /// A connection begins while the ClientHellos of [`CONNECTIONS_MAX`] others were not read.
    #[error("too many connections")]
    TooManyConnections,
}

impl InitialReader {
    /// Makes a reader that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next datagram that the client sent.
    ///
    /// From the datagram that completes a connection's ClientHello on, every datagram with its
    /// Initial packets is [`Reading::Hello`], unless it is malformed. A later connection on the
    /// same addresses is read separately.
    pub fn datagram(&mut self, bytes: &[u8]) -> Reading {
        match packet::initials(bytes) {
            Ok(initials) => self
                .initials(&initials, bytes.len())
                .unwrap_or_else(Reading::Malformed),
            Err(reading) => reading,
        }
    }

    fn initials(&mut self, initials: &[Initial<'_>], size: usize) -> Result<Reading, QuicError> {
        let mut reader = None;
        for initial in initials {
            // A packet that cannot be decrypted is skipped, as servers do: another one may follow it.
            let Some((index, number, payload)) = self.open(initial)? else {
                continue;
            };
            if size < INITIAL_SIZE_MIN {
                return Err(QuicError::DatagramTooShort);
            }
            self.connections[index].add_packet(initial.version, number, &payload);
            reader = Some(index);
        }
        match reader {
            Some(index) => Ok(self.connections[index].reading()),
            None if initials.iter().any(|initial| initial.has_fixed_bit) => {
                Err(QuicError::Undecryptable)
            }
            None => Ok(Reading::NotQuic),
        }
    }

    /// Decrypts a packet. Returns the index of its connection, which may be new, with the packet's
    /// number and payload; `None` if no keys fit.
    fn open(&mut self, initial: &Initial<'_>) -> Result<Option<(usize, u64, Vec<u8>)>, QuicError> {
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some((number, payload)) = connection.open(initial) {
                return Ok(Some((index, number, payload)));
            }
        }
        let keys = Keys::of_client(initial.version, initial.destination);
        let Some((number, payload)) = keys.open(initial, None) else {
            return Ok(None);
        };
        let index = self.admit(QuicConnection::new(initial, keys))?;
        Ok(Some((index, number, payload)))
    }

    /// Adds a connection, and returns its index. If there are [`CONNECTIONS_MAX`], the oldest one
    /// whose ClientHello was read is removed.
    fn admit(&mut self, connection: QuicConnection) -> Result<usize, QuicError> {
        if self.connections.len() == CONNECTIONS_MAX {
            let read = self.connections.iter().position(QuicConnection::is_read);
            self.connections
                .remove(read.ok_or(QuicError::TooManyConnections)?);
        }
        self.connections.push(connection);
        Ok(self.connections.len() - 1)
    }
}

impl fmt::Debug for InitialReader {
    /// Prints no keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitialReader")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Version {
    /// Prints "1" or "2".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
        })
    }
}

impl fmt::Display for PacketType {
    /// Prints the name that the RFCs use, in lower case: "version negotiation".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VersionNegotiation => "version negotiation",
            Self::ZeroRtt => "0-rtt",
            Self::Handshake => "handshake",
            Self::Retry => "retry",
            Self::Short => "short",
        })
    }
}
