//! Making the response that denies a query.

use hickory_proto::op::{DEFAULT_MAX_PAYLOAD_LEN, Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::query::{self, ParsedQuery};

/// With which response code a query is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// NXDOMAIN: the name does not exist. The response has no SOA record with a time, so resolvers
    /// do not cache it (RFC 2308, 5). A query with another opcode than QUERY is answered with
    /// REFUSED.
    NoSuchName,
    /// REFUSED: a policy forbids the query. Clients may then ask their next server.
    Refused,
}

/// The response that denies this query; `None` if it is not DNS, or malformed.
///
/// It repeats the id, the first question as the client wrote it, and the client's RD and CD bits.
/// If the query uses EDNS, the response does too, with the client's DO bit and the reason "Blocked"
/// (RFC 8914, 4.16); another version than 0 is answered with BADVERS (RFC 6891, 6.1.3). The
/// response has less than 512 bytes.
pub fn deny(query: &[u8], denial: Denial) -> Option<Vec<u8>> {
    let asked = query::read(query).ok()?;
    let mut response = Message::response(asked.header.id, asked.header.op_code);
    response.metadata = Metadata::response_from_request(&asked.header.metadata);
    response.metadata.recursion_available = true; // as in a response of a resolver
    response.metadata.response_code = rcode(&asked, denial);
    if let Some(theirs) = asked.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DEFAULT_MAX_PAYLOAD_LEN);
        edns.flags_mut().dnssec_ok = theirs.dnssec_ok;
        if theirs.version == 0 {
            edns.options_mut().insert(blocked());
        }
        response.set_edns(edns);
    }
    response.add_query(asked.question);
    response.to_vec().ok()
}

fn rcode(asked: &ParsedQuery, denial: Denial) -> ResponseCode {
    match denial {
        _ if asked.edns.is_some_and(|edns| edns.version > 0) => ResponseCode::BADVERS,
        Denial::NoSuchName if asked.header.op_code == OpCode::Query => ResponseCode::NXDomain,
        Denial::NoSuchName | Denial::Refused => ResponseCode::Refused,
    }
}

/// The Extended DNS Error "Blocked", without text (RFC 8914, 2).
fn blocked() -> EdnsOption {
    const CODE: u16 = 15;
    const BLOCKED: u16 = 15;
    EdnsOption::Unknown(CODE, BLOCKED.to_be_bytes().to_vec())
}
