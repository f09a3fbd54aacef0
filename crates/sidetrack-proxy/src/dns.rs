//! DNS in datagrams: what a client asks, what it is answered, and the answer that denies.
//!
//! Pure functions over untrusted bytes (RFC 1035, 4). None panics, and the limits below bound the
//! time that each takes.

use thiserror::Error;

mod code;
mod denial;
mod message;
mod name;
mod query;
mod response;

pub use code::{DnsClass, DnsType, Rcode};
pub use denial::{Denial, deny};
pub use query::{DnsQuery, read_query};
pub use response::{DnsAnswer, DnsData, DnsResponse, read_response};

/// The longest message, in bytes (RFC 6891, 4.3); a longer one is malformed.
pub const MESSAGE_SIZE_MAX: usize = 65_535;
/// The most questions. With more it is not DNS: no server takes more than one (RFC 9619), and other
/// protocols' bytes read as many.
pub const QUESTIONS_MAX: u16 = 16;
/// The most records after a query's questions; a query with more is malformed.
pub const QUERY_RECORDS_MAX: usize = 256;
/// The answers that are read of a response; the rest is left out, and counted.
pub const ANSWERS_MAX: u16 = 256;
/// The records behind a response's answers among which its OPT record is looked for.
pub const RESPONSE_RECORDS_MAX: usize = 64;
/// The pointers that a compressed name may lead through; with more it is malformed. A name has no
/// more labels than that; without the limit, 8,000 pointers in a row could be read 256 times.
pub const POINTERS_MAX: usize = 127;
/// The aliases (CNAME) that are followed from the name asked for.
pub const ALIASES_MAX: usize = 16;

/// The question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuestion {
    /// The name asked for: in lower case, without the dot at its end, "." for the root. What is not
    /// printable ASCII is escaped, as `\032`; so are a dot and a backslash within a label, that every
    /// `.` parts two labels (RFC 4343, 2.1). So it has at most 1,012 bytes.
    pub name: String,
    /// The type of record asked for.
    pub record_type: DnsType,
    /// The class asked for.
    pub class: DnsClass,
}

/// Why a datagram was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DnsError {
    /// Shorter than a header, or with a header that no message has: an unassigned opcode, more than
    /// [`QUESTIONS_MAX`] questions, a query without question.
    #[error("not DNS")]
    NotDns,
    /// Begins as DNS does, but goes wrong.
    #[error("malformed DNS: {0}")]
    Malformed(#[from] MalformedDns),
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedDns {
    /// It has more than [`MESSAGE_SIZE_MAX`] bytes.
    #[error("longer than a message may be")]
    TooLong,
    /// It is a response where a query was due, or the reverse.
    #[error("a response where a query was due, or the reverse")]
    Direction,
    /// It ends within a field.
    #[error("ends too early")]
    Truncated,
    /// A name is too long, or is compressed in a circle, in more than [`POINTERS_MAX`] steps, or
    /// otherwise wrongly.
    #[error("a name that cannot be read")]
    Name,
    /// A record's data are not what its type has.
    #[error("a record whose data do not fit its type")]
    Data,
    /// A query with more than [`QUERY_RECORDS_MAX`] records.
    #[error("too many records")]
    TooManyRecords,
    /// More than one OPT record, or one that is not at the root (RFC 6891, 6.1.1 and 6.1.2).
    #[error("an OPT record that may not be there")]
    Opt,
}

#[cfg(test)]
mod tests;
