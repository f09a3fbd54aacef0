//! DNS in datagrams: reads queries and responses, and makes the response that denies a query.
//!
//! All are pure functions of untrusted bytes (RFC 1035, 4). They do not panic, and the limits below
//! bound the time that each takes.

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

/// The largest message, in bytes (RFC 6891, 4.3). A larger one is malformed.
pub const MESSAGE_SIZE_MAX: usize = 65_535;
/// The largest number of questions. A message with more is not DNS: a query has one (RFC 9619),
/// while the bytes of other protocols often read as a large number.
pub const QUESTIONS_MAX: u16 = 16;
/// The largest number of records after a query's questions. A query with more is malformed.
pub const QUERY_RECORDS_MAX: usize = 256;
/// The number of answers that are read from a response. Further ones are counted.
pub const ANSWERS_MAX: u16 = 256;
/// The number of records after a response's answers that are searched for its OPT record.
pub const RESPONSE_RECORDS_MAX: usize = 64;
/// The number of pointers through which a compressed name may lead. A name with more is malformed.
/// A name has no more labels than this. Without the limit, a message could have 8,000 pointers in a
/// row, which would be read for each of 256 answers.
pub const POINTERS_MAX: usize = 127;
/// The number of aliases (CNAME) that are followed from the name in the question.
pub const ALIASES_MAX: usize = 16;

/// A question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuestion {
    /// The name in the question: in lower case, without the dot at its end, "." for the root. Bytes
    /// that are not printable ASCII are escaped as in `\032`, and so are a dot and a backslash
    /// within a label, so that each `.` separates two labels (RFC 4343, 2.1). It has at most 1,012
    /// bytes.
    pub name: String,
    /// The record type in the question.
    pub record_type: DnsType,
    /// The class in the question.
    pub class: DnsClass,
}

/// Why a datagram cannot be read as DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DnsError {
    /// It is shorter than a header, or has a header that no message has: an unassigned opcode, more
    /// than [`QUESTIONS_MAX`] questions, or a query without a question.
    #[error("not DNS")]
    NotDns,
    /// It begins like DNS, but the message is malformed.
    #[error("malformed DNS: {0}")]
    Malformed(#[from] MalformedDns),
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedDns {
    /// It has more than [`MESSAGE_SIZE_MAX`] bytes.
    #[error("the message is too long")]
    TooLong,
    /// It is a response where a query was expected, or the reverse.
    #[error("a response where a query was expected, or the reverse")]
    Direction,
    /// It ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A name is too long, or its compression is circular, takes more than [`POINTERS_MAX`]
    /// pointers, or is invalid otherwise.
    #[error("a name that cannot be read")]
    Name,
    /// The data of a record do not fit its type.
    #[error("a record whose data do not fit its type")]
    Data,
    /// It is a query with more than [`QUERY_RECORDS_MAX`] records.
    #[error("too many records")]
    TooManyRecords,
    /// It has more than one OPT record, or one whose name is not the root (RFC 6891, 6.1.1 and
    /// 6.1.2).
    #[error("an OPT record that is not allowed")]
    Opt,
}

#[cfg(test)]
mod tests;
