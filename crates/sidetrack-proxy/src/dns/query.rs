//! Reading queries.

use hickory_proto::op::{self, Header, MessageType};

use super::code::DnsType;
use super::message::{MessageReader, RawRecord};
use super::{DnsError, DnsQuestion, MalformedDns, QUERY_RECORDS_MAX};

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuery {
    /// The id, which the client has chosen and the response repeats.
    pub id: u16,
    /// The first question.
    pub question: DnsQuestion,
    /// Further questions. Servers should refuse a query that has any (RFC 9619).
    pub others: Vec<DnsQuestion>,
}

impl DnsQuery {
    /// All questions, in order.
    pub fn questions(&self) -> impl Iterator<Item = &DnsQuestion> {
        std::iter::once(&self.question).chain(&self.others)
    }
}

/// Reads a datagram from a client as a query.
///
/// # Errors
///
/// [`DnsError`], also if only the records after the questions are malformed.
pub fn read_query(datagram: &[u8]) -> Result<DnsQuery, DnsError> {
    let asked = read(datagram)?;
    Ok(DnsQuery {
        id: asked.header.id,
        question: (&asked.question).into(),
        others: asked.others.iter().map(DnsQuestion::from).collect(),
    })
}

/// The parts of a query on which its response depends.
pub(super) struct ParsedQuery {
    pub(super) header: Header,
    pub(super) question: op::Query,
    others: Vec<op::Query>,
    /// The query's OPT record, if it has one.
    pub(super) edns: Option<EdnsHeader>,
}

/// The fields of an OPT record (RFC 6891, 6.1.3).
#[derive(Clone, Copy)]
pub(super) struct EdnsHeader {
    /// The upper eight bits of the response code.
    pub(super) rcode: u8,
    pub(super) version: u8,
    /// The DO bit: whether the sender wants DNSSEC's records (RFC 3225).
    pub(super) dnssec_ok: bool,
}

/// Reads a query with all its records.
pub(super) fn read(datagram: &[u8]) -> Result<ParsedQuery, DnsError> {
    let mut message = MessageReader::open(datagram, MessageType::Query)?;
    let mut questions = message.questions()?.into_iter();
    let question = questions.next().ok_or(DnsError::NotDns)?;
    let counts = message.header.counts;
    let others = usize::from(counts.answers) + usize::from(counts.authorities);
    let additionals = usize::from(counts.additionals);
    if others + additionals > QUERY_RECORDS_MAX {
        return Err(MalformedDns::TooManyRecords.into());
    }
    for _ in 0..others {
        message.record()?;
    }
    let mut edns = None;
    for _ in 0..additionals {
        let record = message.record()?;
        if record.record_type == DnsType::OPT && edns.replace(read_edns(&record)?).is_some() {
            return Err(MalformedDns::Opt.into());
        }
    }
    Ok(ParsedQuery {
        header: message.header,
        question,
        others: questions.collect(),
        edns,
    })
}

pub(super) fn read_edns(opt: &RawRecord<'_>) -> Result<EdnsHeader, MalformedDns> {
    if !opt.name.is_root() {
        return Err(MalformedDns::Opt);
    }
    let [rcode, version, flags, _] = opt.ttl.to_be_bytes();
    Ok(EdnsHeader {
        rcode,
        version,
        dnssec_ok: flags & 0x80 != 0,
    })
}
