//! What a client asks.

use hickory_proto::op::{self, Header, MessageType};

use super::code::Kind;
use super::message::{Message, Record};
use super::{Fault, QUERY_RECORDS_MAX, Question, Unread};

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the client, to know the response by.
    pub id: u16,
    /// The first question.
    pub question: Question,
    /// Questions beyond the first. Servers refuse more than one (RFC 9619), or should.
    pub others: Vec<Question>,
}

impl Query {
    /// All that it asks, the first first.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        std::iter::once(&self.question).chain(&self.others)
    }
}

/// Reads a datagram that a client sent.
///
/// # Errors
///
/// [`Unread`], of all of the message: what is behind the questions must be right too.
pub fn read_query(datagram: &[u8]) -> Result<Query, Unread> {
    let asked = read(datagram)?;
    Ok(Query {
        id: asked.header.id,
        question: (&asked.question).into(),
        others: asked.others.iter().map(Question::from).collect(),
    })
}

/// As much of a query as its response depends on.
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) question: op::Query,
    others: Vec<op::Query>,
    pub(super) edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891, 6.1.3).
#[derive(Clone, Copy)]
pub(super) struct Edns {
    /// The response code's upper bits.
    pub(super) rcode: u8,
    pub(super) version: u8,
    /// Whether DNSSEC's records are wanted (RFC 3225).
    pub(super) dnssec_ok: bool,
}

pub(super) fn read(datagram: &[u8]) -> Result<Asked, Unread> {
    let mut message = Message::open(datagram, MessageType::Query)?;
    let mut questions = message.questions()?.into_iter();
    let question = questions.next().ok_or(Unread::NotDns)?;
    let counts = message.header.counts;
    let others = usize::from(counts.answers) + usize::from(counts.authorities);
    let additionals = usize::from(counts.additionals);
    if others + additionals > QUERY_RECORDS_MAX {
        return Err(Fault::TooManyRecords.into());
    }
    for _ in 0..others {
        message.record()?;
    }
    let mut edns = None;
    for _ in 0..additionals {
        let record = message.record()?;
        if record.kind == Kind::OPT && edns.replace(read_edns(&record)?).is_some() {
            return Err(Fault::Opt.into());
        }
    }
    Ok(Asked {
        header: message.header,
        question,
        others: questions.collect(),
        edns,
    })
}

pub(super) fn read_edns(opt: &Record<'_>) -> Result<Edns, Fault> {
    if !opt.name.is_root() {
        return Err(Fault::Opt);
    }
    let [rcode, version, flags, _] = opt.ttl.to_be_bytes();
    Ok(Edns {
        rcode,
        version,
        dnssec_ok: flags & 0x80 != 0,
    })
}
