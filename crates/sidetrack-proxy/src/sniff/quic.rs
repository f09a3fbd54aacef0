//! What a QUIC client begins with: the Initial packets of version 1 (RFC 9000, RFC 9001) and
//! version 2 (RFC 9369), and the ClientHello in them.
//!
//! Everybody can read a client's Initial packets: their keys come from the connection ID that the
//! client chose for the server. Pure functions over untrusted bytes; none panics. Where servers may
//! take a datagram in different ways, it is malformed, lest the reader see another name than they.
//! The ClientHello that a client sends again after a HelloRetryRequest is not read; it may not name
//! another server (RFC 8446, 4.1.2).

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

/// The longest ClientHello that is read, with what follows it in the CRYPTO frames, in bytes.
pub const CRYPTO_SIZE_MAX: usize = 16 * 1024;
/// The datagrams over which a ClientHello may be spread. Browsers need two or three.
pub const DATAGRAMS_MAX: usize = 8;
/// The packets that one datagram may hold.
pub const PACKETS_MAX: usize = 16;
/// The connections that one reader follows. Clients may open several from one socket, and a Retry
/// begins another.
pub const CONNECTIONS_MAX: usize = 4;
/// The shortest datagram with an Initial packet, in bytes; servers discard a shorter one, or should
/// (RFC 9000, 14.1).
pub const INITIAL_SIZE_MIN: usize = 1200;

/// Reads what one client sends from one address to another, datagram by datagram.
///
/// Holds 32 KiB at most for each connection, and after its ClientHello only that.
#[derive(Default)]
pub struct InitialReader {
    connections: Vec<QuicConnection>,
}

/// What can be said of a datagram, after those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not QUIC.
    NotQuic,
    /// QUIC of a version that is not read; or four bytes that look so.
    OtherVersion(u32),
    /// QUIC, but nothing that a client begins with.
    NotInitial(PacketType),
    /// Initial packets, but the ClientHello is not whole yet.
    NeedMore,
    /// The ClientHello, now or since an earlier datagram of its connection.
    Hello(Hello),
    /// QUIC, but wrong. What is wrong with a connection's ClientHello stays wrong.
    Malformed(QuicError),
}

/// Packets other than the Initial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// Version Negotiation; only servers send it.
    VersionNegotiation,
    /// Data before the handshake.
    ZeroRtt,
    /// The rest of the handshake.
    Handshake,
    /// Retry; only servers send it.
    Retry,
    /// A short header: data. Little is known by its looks: a quarter of all first bytes would do.
    Short,
}

/// What a client asks for. Its texts come from the client and may hold any character.
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
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
}

/// Why QUIC is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuicError {
    /// A long header whose lengths are not possible.
    #[error("a header that cannot be read")]
    Header,
    /// Shorter than [`INITIAL_SIZE_MIN`].
    #[error("an Initial packet in too short a datagram")]
    DatagramTooShort,
    /// Packets to different connection IDs in one datagram (RFC 9000, 12.2).
    #[error("packets of different connections in one datagram")]
    Coalesced,
    /// More than [`PACKETS_MAX`].
    #[error("too many packets in one datagram")]
    TooManyPackets,
    /// No key opens it: it is damaged, or belongs to a connection whose beginning was not read.
    #[error("an Initial packet that no key opens")]
    Undecryptable,
    /// A frame that is cut, or that may not be in a client's Initial packet (RFC 9000, 12.4).
    #[error("a frame that may not be there")]
    Frame,
    /// More than [`CRYPTO_SIZE_MAX`].
    #[error("the ClientHello is too long")]
    TooLong,
    /// Two CRYPTO frames differ about the same bytes.
    #[error("the ClientHello contradicts itself")]
    Conflict,
    /// The handshake begins with something else, or with a ClientHello that cannot be read.
    #[error("no ClientHello")]
    NoHello,
    /// More than [`DATAGRAMS_MAX`].
    #[error("the ClientHello is spread over too many datagrams")]
    TooManyDatagrams,
    /// More than [`CONNECTIONS_MAX`] whose ClientHello is not read.
    #[error("too many connections")]
    TooManyConnections,
}

impl InitialReader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next datagram that the client sent.
    ///
    /// As soon as a connection's ClientHello is whole, every datagram with its Initial packets is
    /// [`Reading::Hello`]. A later connection on the same addresses is read by itself.
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
            // One that no key opens is skipped, as servers do: another may follow it.
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

    /// Tells whose packet it is, its number, and its payload.
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

    /// The place of a new connection: its own, or the oldest one's whose ClientHello is read.
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
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitialReader")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Version {
    /// "1" or "2".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
        })
    }
}

impl fmt::Display for PacketType {
    /// As the RFCs write it, in lower case: "version negotiation".
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
