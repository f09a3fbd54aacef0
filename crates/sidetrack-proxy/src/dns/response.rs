//! Reading responses.

use std::net::IpAddr;

use hickory_proto::op::{MessageType, OpCode};

use super::code::{DnsClass, DnsType, Rcode};
use super::message::{MessageReader, RawRecord};
use super::query::read_edns;
use super::{
    ALIASES_MAX, ANSWERS_MAX, DnsError, DnsQuestion, MalformedDns, RESPONSE_RECORDS_MAX, name,
};

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsResponse {
    /// The id of the query.
    pub id: u16,
    /// The response code.
    pub rcode: Rcode,
    /// Whether the server has truncated it, so that the client will ask again over TCP.
    pub truncated: bool,
    /// The first question; some responses with an error have none.
    pub question: Option<DnsQuestion>,
    /// The answers, [`ANSWERS_MAX`] at most; none if it responds to anything but a standard query.
    pub answers: Vec<DnsAnswer>,
    /// Number of answers beyond [`ANSWERS_MAX`], which were not read.
    pub left_out: u16,
}

/// A record of the answer section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The name that has the record; written as [`DnsQuestion::name`].
    pub name: String,
    /// The record's type.
    pub record_type: DnsType,
    /// How long the record is valid, in seconds.
    pub ttl: u32,
    /// The record's data.
    pub data: DnsData,
}

/// The data of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsData {
    /// An address of the name (A, AAAA).
    Address(IpAddr),
    /// The name for which the record's name is an alias (CNAME); written as [`DnsQuestion::name`].
    Alias(String),
    /// Anything else; not read.
    Other,
}

/// Reads a datagram from a server as a response.
///
/// After the answers, only the OPT record is searched for, which has the upper bits of the response
/// code. If it cannot be read, or does not follow within [`RESPONSE_RECORDS_MAX`] records, these
/// bits are 0.
///
/// # Errors
///
/// [`DnsError`], if the header, the questions, or the first [`ANSWERS_MAX`] answers cannot be read.
pub fn read_response(datagram: &[u8]) -> Result<DnsResponse, DnsError> {
    let mut message = MessageReader::open(datagram, MessageType::Response)?;
    let questions = message.questions()?;
    let header = message.header;
    let count = match header.op_code {
        OpCode::Query => header.counts.answers,
        _ => 0, // in an update this section has prerequisites
    };
    let read = (0..count.min(ANSWERS_MAX)).map(|_| read_answer(message.record()?));
    let answers = read.collect::<Result<Vec<_>, MalformedDns>>()?;
    let upper = read_upper_rcode(&mut message, answers.len()).unwrap_or_default();
    Ok(DnsResponse {
        id: header.id,
        rcode: Rcode(u16::from(upper) << 4 | u16::from(header.response_code.low())),
        truncated: header.truncation,
        question: questions.first().map(DnsQuestion::from),
        answers,
        left_out: count.saturating_sub(ANSWERS_MAX),
    })
}

/// The upper bits of the response code, from the OPT record; `None` if it was not found.
fn read_upper_rcode(message: &mut MessageReader<'_>, records_read: usize) -> Option<u8> {
    let counts = message.header.counts;
    let others = usize::from(counts.answers) + usize::from(counts.authorities) - records_read;
    let all = others + usize::from(counts.additionals);
    for index in 0..all.min(RESPONSE_RECORDS_MAX) {
        let record = message.record().ok()?;
        if index >= others && record.record_type == DnsType::OPT {
            return Some(read_edns(&record).ok()?.rcode);
        }
    }
    None
}

impl DnsResponse {
    /// The addresses of the name in the question, each with the number of seconds for which it is
    /// valid.
    ///
    /// Aliases are followed, [`ALIASES_MAX`] at most. An address at their end is valid for as long
    /// as every record on the way is.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let names = self.names_asked_for();
        self.answers.iter().filter_map(move |answer| {
            let DnsData::Address(address) = answer.data else {
                return None;
            };
            let (_, ttl) = names.iter().find(|(name, _)| *name == answer.name)?;
            Some((address, answer.ttl.min(*ttl)))
        })
    }

    /// The name in the question and the names for which it is an alias, each with the number of
    /// seconds for which that is valid.
    fn names_asked_for(&self) -> Vec<(&str, u32)> {
        let mut names = Vec::new();
        let mut next = self
            .question
            .as_ref()
            .map(|asked| (asked.name.as_str(), u32::MAX));
        while let Some((name, ttl)) = next {
            names.push((name, ttl));
            if names.len() > ALIASES_MAX {
                break;
            }
            next = self
                .alias_of(name)
                .map(|(target, its)| (target, ttl.min(its)))
                .filter(|(target, _)| !names.iter().any(|(known, _)| known == target));
        }
        names
    }

    fn alias_of(&self, name: &str) -> Option<(&str, u32)> {
        self.answers.iter().find_map(|answer| match &answer.data {
            DnsData::Alias(target) if answer.name == name => Some((target.as_str(), answer.ttl)),
            _ => None,
        })
    }
}

fn read_answer(record: RawRecord<'_>) -> Result<DnsAnswer, MalformedDns> {
    let name = name::text(&record.name);
    let record_type = record.record_type;
    // A TTL with the highest bit set is taken as 0 (RFC 2181, 8).
    let ttl = i32::try_from(record.ttl).map_or(0, |_| record.ttl);
    let data = match record_type {
        _ if record.class != DnsClass::IN => DnsData::Other,
        DnsType::A => DnsData::Address(octets::<4>(record.data)?.into()),
        DnsType::AAAA => DnsData::Address(octets::<16>(record.data)?.into()),
        DnsType::CNAME => DnsData::Alias(name::text(&record.data_as_name()?)),
        _ => DnsData::Other,
    };
    Ok(DnsAnswer {
        name,
        record_type,
        ttl,
        data,
    })
}

fn octets<const SIZE: usize>(data: &[u8]) -> Result<[u8; SIZE], MalformedDns> {
    data.try_into().map_err(|_| MalformedDns::Data)
}
