//! What a client is answered.

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
    /// The query's.
    pub id: u16,
    /// What became of the query.
    pub rcode: Rcode,
    /// Whether it was cut; the client will ask again over TCP.
    pub truncated: bool,
    /// The first question; some responses that tell of errors have none.
    pub question: Option<DnsQuestion>,
    /// The answers, [`ANSWERS_MAX`] at most; none if it responds to anything but a standard query.
    pub answers: Vec<DnsAnswer>,
    /// The answers that were not read, as there were more than [`ANSWERS_MAX`].
    pub left_out: u16,
}

/// A record that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Whose record it is; written as [`DnsQuestion::name`].
    pub name: String,
    /// Its type.
    pub record_type: DnsType,
    /// How long it holds, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: DnsData,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsData {
    /// The name's address (A, AAAA).
    Address(IpAddr),
    /// The name that it stands for (CNAME); written as [`DnsQuestion::name`].
    Alias(String),
    /// Anything else; not looked at.
    Other,
}

/// Reads a datagram that a server sent.
///
/// Of what is behind the answers, only the OPT record is looked for, which has the upper bits of the
/// response code. It is done without where that cannot be read, or is behind more than
/// [`RESPONSE_RECORDS_MAX`] records.
///
/// # Errors
///
/// [`DnsError`], of the header, the questions, and those answers that are read.
pub fn read_response(datagram: &[u8]) -> Result<DnsResponse, DnsError> {
    let mut message = MessageReader::open(datagram, MessageType::Response)?;
    let questions = message.questions()?;
    let header = message.header;
    let count = match header.op_code {
        OpCode::Query => header.counts.answers,
        _ => 0, // an update has prerequisites there
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

/// What the OPT record adds to the response code; `None` if there is none, or it was not found.
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
    /// The addresses of the name asked for, each with how many seconds it is that name's.
    ///
    /// Aliases are followed, [`ALIASES_MAX`] at most: an address at their end is the asked name's for
    /// as long as every record on the way holds.
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

    /// The name asked for and those that it stands for, each with how many seconds it does.
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
    // With the first bit set it would be negative, which counts as nothing (RFC 2181, 8).
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
