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
    /// How many questions there are. Servers refuse more than one (RFC 9619), or should.
    pub questions: u16,
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
        questions: asked.header.counts.queries,
    })
}

/// As much of a query as its response depends on.
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) question: op::Query,
    pub(super) edns: Option<Edns>,
}

/// What the client's OPT record says (RFC 6891, 6.1.3).
#[derive(Clone, Copy)]
pub(super) struct Edns {
    pub(super) version: u8,
    /// Whether DNSSEC's records are wanted (RFC 3225).
    pub(super) dnssec_ok: bool,
}

pub(super) fn read(datagram: &[u8]) -> Result<Asked, Unread> {
    let mut message = Message::open(datagram, MessageType::Query)?;
    let question = message.first_question()?.ok_or(Unread::NotDns)?;
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
        edns,
    })
}

fn read_edns(opt: &Record<'_>) -> Result<Edns, Fault> {
    if !opt.name.is_root() {
        return Err(Fault::Opt);
    }
    let [_, version, flags, _] = opt.ttl.to_be_bytes();
    Ok(Edns {
        version,
        dnssec_ok: flags & 0x80 != 0,
    })
}
