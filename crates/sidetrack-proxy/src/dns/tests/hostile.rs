//! Tests with messages that are cut, too large or circular, and with bytes that are not DNS.

use hickory_proto::op::{self, Message, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use proptest::prelude::*;

use super::super::*;
use super::{edns, name, query, response};

/// The largest payload of a UDP datagram over IPv4.
const DATAGRAM_SIZE_MAX: usize = 65_507;

fn header(response: bool, counts: [u8; 4]) -> Vec<u8> {
    let [questions, answers, authorities, additionals] = counts;
    vec![
        7,
        7,
        u8::from(response) << 7,
        0,
        0,
        questions,
        0,
        answers,
        0,
        authorities,
        0,
        additionals,
    ]
}

fn malformed<T>(error: MalformedDns) -> Result<T, DnsError> {
    Err(DnsError::Malformed(error))
}

#[test]
fn bytes_without_a_dns_header_are_not_dns() {
    let mut odd = query("a.", RecordType::A);
    odd.metadata.op_code = OpCode::Unknown(9);
    for bytes in [
        &b""[..],
        &header(false, [1, 0, 0, 0])[..11],
        &header(false, [0, 0, 0, 0]),
        &header(false, [17, 0, 0, 0]),
        &odd.to_vec().unwrap(),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 100],
    ] {
        assert_eq!(read_query(bytes), Err(DnsError::NotDns), "{bytes:?}");
        assert_eq!(deny(bytes, Denial::Refused), None);
    }
    assert_eq!(
        read_response(&header(true, [17, 0, 0, 0])),
        Err(DnsError::NotDns)
    );
    assert!(read_response(&header(true, [0; 4])).is_ok());
}

#[test]
fn a_message_in_the_other_direction_is_malformed() {
    let question = [&[0][..], &[0, 1, 0, 1]].concat();
    let request = [header(false, [1, 0, 0, 0]), question.clone()].concat();
    let reply = [header(true, [1, 0, 0, 0]), question].concat();
    assert_eq!(read_query(&reply), malformed(MalformedDns::Direction));
    assert_eq!(read_response(&request), malformed(MalformedDns::Direction));
}

#[test]
fn every_beginning_of_a_message_is_truncated() {
    let mut request = query("www.example.com.", RecordType::A);
    request.set_edns(edns());
    let request = request.to_vec().unwrap();
    for end in 12..request.len() {
        assert_eq!(
            read_query(&request[..end]),
            malformed(MalformedDns::Truncated),
            "{end}"
        );
    }
    let reply = response("a.b.", &[("a.b.", 1, "c.b."), ("c.b.", 1, "192.0.2.1")]);
    let reply = reply.to_vec().unwrap();
    for end in 12..reply.len() {
        assert_eq!(
            read_response(&reply[..end]),
            malformed(MalformedDns::Truncated),
            "{end}"
        );
    }
    assert!(read_response(&reply).is_ok());
}

#[test]
fn circular_and_invalid_names_are_malformed() {
    for wrong in [
        &[0xc0, 12][..],             // to itself
        &[1, b'a', 0xc0, 12],        // to its own beginning
        &[0xc0, 14, 0xc0, 12],       // to each other
        &[0xff, 0xff],               // forward
        &[0x40, 1],                  // an extended label type, of which none is in use
        &[[63; 64]; 5].concat()[..], // too long
    ] {
        let bytes = [&header(false, [1, 0, 0, 0])[..], wrong, &[0, 1, 0, 1]].concat();
        assert_eq!(
            read_query(&bytes),
            malformed(MalformedDns::Name),
            "{wrong:?}"
        );
    }
}

#[test]
fn data_that_do_not_fit_the_type_are_malformed() {
    for (kind, data) in [
        (1, &[192, 0, 2][..]),
        (1, &[192, 0, 2, 1, 0]),
        (1, &[]),
        (28, &[0; 15]),
        (5, &[0, 0]),
    ] {
        let head = [0, 0, kind, 0, 1, 0, 0, 0, 1, 0, data.len() as u8];
        let bytes = [&header(true, [0, 1, 0, 0])[..], &head, data].concat();
        assert_eq!(
            read_response(&bytes),
            malformed(MalformedDns::Data),
            "{kind} {data:?}"
        );
    }
    // A name that continues after the end of its record.
    let head = [0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 1];
    let bytes = [&header(true, [0, 1, 0, 0])[..], &head, &[1, b'a', 0]].concat();
    assert_eq!(read_response(&bytes), malformed(MalformedDns::Data));
}

#[test]
fn one_opt_record_with_the_root_as_name_is_allowed() {
    let question = [0, 0, 1, 0, 1];
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let named = [&[1, b'a'][..], &opt].concat();
    let with = |opts: &[u8], count| {
        let bytes = [&header(false, [1, 0, 0, count])[..], &question, opts].concat();
        read_query(&bytes).map(|read| read.id)
    };
    assert_eq!(with(&opt, 1), Ok(0x0707));
    assert_eq!(with(&[opt, opt].concat(), 2), malformed(MalformedDns::Opt));
    assert_eq!(with(&named, 1), malformed(MalformedDns::Opt));
}

#[test]
fn counts_are_bounded() {
    let one = op::Query::query(name("a."), RecordType::A);
    let mut request = query("a.", RecordType::A);
    request.add_queries(std::iter::repeat_n(
        one.clone(),
        usize::from(QUESTIONS_MAX) - 1,
    ));
    assert_eq!(
        read_query(&request.to_vec().unwrap())
            .unwrap()
            .questions()
            .count(),
        usize::from(QUESTIONS_MAX)
    );
    request.add_query(one);
    assert_eq!(
        read_query(&request.to_vec().unwrap()),
        Err(DnsError::NotDns)
    );

    let record = Record::from_rdata(name("a."), 1, RData::A(A([192, 0, 2, 1].into())));
    let mut request = query("a.", RecordType::A);
    request.add_additionals(std::iter::repeat_n(record.clone(), QUERY_RECORDS_MAX));
    assert!(read_query(&request.to_vec().unwrap()).is_ok());
    request.add_answer(record.clone());
    assert_eq!(
        read_query(&request.to_vec().unwrap()),
        malformed(MalformedDns::TooManyRecords)
    );

    let mut reply = query("a.", RecordType::A).into_response();
    reply.add_answers(std::iter::repeat_n(record, usize::from(ANSWERS_MAX) + 44));
    let read = read_response(&reply.to_vec().unwrap()).unwrap();
    assert_eq!(
        (read.addresses().count(), read.left_out),
        (usize::from(ANSWERS_MAX), 44)
    );
}

/// A response that announces 65,535 answers and has as many as fit: a TXT record whose data are a
/// chain of pointers that ends at the root, and then records whose name leads through `pointers`
/// pointers.
fn chained(pointers: u16) -> Vec<u8> {
    let mut bytes = header(true, [0; 4]);
    bytes[6..8].fill(0xff);
    bytes.extend([0, 0, 16, 0, 1, 0, 0, 0, 1]);
    bytes.extend((2 * pointers).to_be_bytes());
    let mut last = 12; // the root
    for _ in 1..pointers {
        bytes.extend((0xc000_u16 | last).to_be_bytes());
        last = bytes.len() as u16 - 2;
    }
    bytes.extend([0, 0]);
    let pointer = (0xc000 | last).to_be_bytes();
    let record = [&pointer[..], &[0, 16, 0, 1, 0, 0, 0, 1, 0, 0]].concat();
    while bytes.len() + record.len() <= DATAGRAM_SIZE_MAX {
        bytes.extend(&record);
    }
    bytes
}

#[test]
fn pointers_are_bounded() {
    let read = read_response(&chained(POINTERS_MAX as u16)).unwrap();
    assert_eq!(read.answers.len(), usize::from(ANSWERS_MAX));
    assert!(read.answers.iter().all(|answer| answer.name == "."));
    for pointers in [POINTERS_MAX as u16 + 1, 8000] {
        let read = read_response(&chained(pointers));
        assert_eq!(read, malformed(MalformedDns::Name), "{pointers}");
    }
}

#[test]
fn the_largest_datagrams_are_read() {
    let reply = chained(1);
    assert!(reply.len() > DATAGRAM_SIZE_MAX - 12);
    assert!(read_response(&reply).is_ok());

    let mut request = query("a.", RecordType::A).to_vec().unwrap();
    request.resize(DATAGRAM_SIZE_MAX, 0);
    assert!(read_query(&request).is_ok());
    request.resize(MESSAGE_SIZE_MAX + 1, 0);
    assert_eq!(read_query(&request), malformed(MalformedDns::TooLong));
}

/// Bytes that get further into the readers than random ones.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        Just(vec![3, b'w', b'w', b'w']),
        Just(vec![0]),
        (0..60_u8).prop_map(|to| vec![0xc0, to]),
        Just(vec![0, 1, 0, 1]),
        Just(vec![0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]),
        Just(vec![0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]),
        Just(vec![0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let body = prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat());
    let counts = [0..4_u8, 0..4, 0..4, 0..4];
    (any::<bool>(), counts, body)
        .prop_map(|(response, counts, body)| [header(response, counts), body].concat())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop_oneof![hostile(), prop::collection::vec(any::<u8>(), 0..600)]) {
        let read = read_query(&bytes);
        let denial = deny(&bytes, Denial::NoSuchName);
        prop_assert_eq!(read.is_ok(), denial.is_some());
        if let (Ok(read), Some(denial)) = (read, denial) {
            let response = read_response(&denial).unwrap();
            prop_assert_eq!((response.id, response.question), (read.id, Some(read.question)));
        }
        if let Ok(response) = read_response(&bytes) {
            prop_assert!(response.addresses().count() <= response.answers.len());
        }
    }

    #[test]
    fn damage_does_not_panic(at in 0..80_usize, value: u8) {
        let message: Message = response("a.b.c.", &[("a.b.c.", 1, "c.c."), ("c.c.", 1, "::1")]);
        let mut bytes = message.to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = read_response(&bytes);
        let _ = read_query(&bytes);
    }
}
