//! Tests with messages that hickory makes; those with hostile ones are in `hostile`.

use std::net::IpAddr;

use hickory_proto::op::{self, Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

mod hostile;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(asked: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(op::Query::query(name(asked), kind));
    message
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    edns
}

fn response(asked: &str, answers: &[(&str, u32, &str)]) -> Message {
    let mut message = query(asked, RecordType::A).into_response();
    for (owner, ttl, data) in answers {
        let data = match data.parse() {
            Ok(IpAddr::V4(v4)) => RData::A(A(v4)),
            Ok(IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
            Err(_) => RData::CNAME(CNAME(name(data))),
        };
        message.add_answer(Record::from_rdata(name(owner), *ttl, data));
    }
    message
}

fn addresses(message: &Message) -> Vec<String> {
    let response = read_response(&message.to_vec().unwrap()).unwrap();
    let addresses = response.addresses();
    addresses.map(|(ip, ttl)| format!("{ip} {ttl}")).collect()
}

#[test]
fn a_query_is_read() {
    let mut message = query("Www.Example.COM.", RecordType::HTTPS);
    message.set_edns(edns());
    let read = read_query(&message.to_vec().unwrap()).unwrap();
    assert_eq!((read.id, read.questions().count()), (0x1234, 1));
    let DnsQuestion {
        name,
        record_type,
        class,
    } = read.question;
    assert_eq!(
        [name, record_type.to_string(), class.to_string()],
        ["www.example.com", "HTTPS", "IN"]
    );
}

#[test]
fn names_are_printable() {
    for (labels, text) in [
        (&[][..], "."),
        (&[&b"A.b"[..], b"c\\"], r"a\046b.c\092"),
        (&[b"\x1b[2J \x7f\xff"], r"\027[2j\032\127\255"),
        (&[b"xn--bcher-kva", b"example"], "xn--bcher-kva.example"),
    ] {
        let name = Name::from_labels(labels.iter().copied()).unwrap();
        let mut message = query(".", RecordType::A);
        message.queries[0].set_name(name);
        let read = read_query(&message.to_vec().unwrap()).unwrap();
        assert_eq!(read.question.name, text);
    }
    let worst = name::text(&Name::from_labels([[7; 63]; 4].map(|l| l[..62].to_vec())).unwrap());
    assert!(worst.len() <= 1012, "{}", worst.len());
}

#[test]
fn a_dot_within_a_label_makes_no_subdomain() {
    let mut message = query(".", RecordType::A);
    message.queries[0].set_name(Name::from_labels([&b"x.good"[..], b"example"]).unwrap());
    let read = read_query(&message.to_vec().unwrap()).unwrap();
    let rule: crate::Pattern = "*.good.example".parse().unwrap();
    let matches = |name| rule.matches(([192, 0, 2, 1], 53).into(), Some(name));
    assert!(matches("x.good.example") && !matches(&read.question.name));
}

#[test]
fn numbers_without_names_are_displayed() {
    let shown = [DnsType(65280).to_string(), DnsClass(42).to_string()];
    assert_eq!(shown, ["TYPE65280", "CLASS42"]);
    assert_eq!(
        [3, 11, 16, 23, 24].map(|n| Rcode(n).to_string()),
        ["NXDOMAIN", "RCODE11", "BADVERS", "BADCOOKIE", "RCODE24"]
    );
}

#[test]
fn an_address_belongs_to_the_name_in_the_question() {
    let message = response(
        "a.example.",
        &[
            ("edge.cdn.example.", 30, "192.0.2.1"),
            ("A.Example.", 300, "b.example."),
            ("other.example.", 9, "192.0.2.9"),
            ("b.example.", 20, "Edge.cdn.example."),
            ("edge.cdn.example.", 10, "2001:db8::1"),
        ],
    );
    assert_eq!(addresses(&message), ["192.0.2.1 20", "2001:db8::1 10"]);
    let read = read_response(&message.to_vec().unwrap()).unwrap();
    assert_eq!(read.question.unwrap().name, "a.example");
    assert_eq!(
        read.answers[3].data,
        DnsData::Alias("edge.cdn.example".into())
    );
    assert_eq!(
        (read.rcode.to_string(), read.left_out),
        ("NOERROR".into(), 0)
    );
}

#[test]
fn circular_and_too_many_aliases_are_not_followed() {
    let circle = [("a.", 1, "b."), ("b.", 1, "a."), ("b.", 5, "192.0.2.1")];
    assert_eq!(addresses(&response("a.", &circle)), ["192.0.2.1 1"]);
    assert_eq!(addresses(&response("a.", &[("a.", 1, "a.")])), [""; 0]);

    for (length, found) in [(ALIASES_MAX, 1), (ALIASES_MAX + 1, 0)] {
        let names: Vec<_> = (0..=length).map(|n| format!("n{n}.")).collect();
        let mut answers: Vec<_> = names.windows(2).map(|w| (&*w[0], 60, &*w[1])).collect();
        answers.push((&names[length], 60, "192.0.2.1"));
        assert_eq!(addresses(&response("n0.", &answers)).len(), found);
    }
}

#[test]
fn other_answers_give_no_addresses() {
    let mut message = response("a.", &[("a.", 1 << 31, "192.0.2.1")]);
    assert_eq!(addresses(&message), ["192.0.2.1 0"]); // a negative TTL
    message.answers[0].dns_class = hickory_proto::rr::DNSClass::CH;
    assert_eq!(addresses(&message), [""; 0]);
    message.answers[0].data = RData::TXT(TXT::new(vec!["192.0.2.1".into()]));
    assert_eq!(addresses(&message), [""; 0]);
    message.metadata.op_code = OpCode::Update;
    assert_eq!(addresses(&message), [""; 0]);
}

#[test]
fn the_response_code_and_truncation_are_read() {
    let mut message = query("a.", RecordType::A).into_response();
    message.metadata.response_code = ResponseCode::NXDomain;
    message.metadata.truncation = true;
    message.queries.clear();
    let read = read_response(&message.to_vec().unwrap()).unwrap();
    assert_eq!((read.rcode, read.truncated), (Rcode(3), true));
    assert_eq!((read.question.clone(), read.addresses().count()), (None, 0));
}

#[test]
fn the_opt_record_has_the_response_codes_upper_bits() {
    let mut message = response("a.", &[("a.", 60, "192.0.2.1")]);
    message.metadata.response_code = ResponseCode::BADCOOKIE;
    message.add_authority(message.answers[0].clone());
    message.set_edns(edns());
    let bytes = message.to_vec().unwrap();
    let rcode = |bytes: &[u8]| read_response(bytes).unwrap().rcode.to_string();
    assert_eq!(rcode(&bytes), "BADCOOKIE");
    // If the message is cut after the answers, or has too many records there, only the header's
    // bits are known.
    assert_eq!(rcode(&bytes[..bytes.len() - 1]), "YXRRSET");
    for _ in 0..RESPONSE_RECORDS_MAX {
        message.add_authority(message.answers[0].clone());
    }
    assert_eq!(rcode(&message.to_vec().unwrap()), "YXRRSET");
}

fn denied(query: &Message, denial: Denial) -> Message {
    let bytes = deny(&query.to_vec().unwrap(), denial).unwrap();
    assert!(bytes.len() < 512);
    let response = Message::from_vec(&bytes).unwrap();
    assert_eq!(response.message_type, MessageType::Response);
    assert_eq!((response.id, response.op_code), (query.id, query.op_code));
    assert_eq!(response.recursion_desired, query.recursion_desired);
    assert!(response.queries[0].name.eq_case(&query.queries[0].name));
    assert_eq!(response.queries, query.queries[..1]);
    assert!(response.answers.is_empty() && response.authorities.is_empty());
    response
}

#[test]
fn a_denial_repeats_the_question() {
    let mut plain = query("wWw.eXample.com.", RecordType::AAAA);
    let response = denied(&plain, Denial::NoSuchName);
    assert_eq!(response.response_code, ResponseCode::NXDomain);
    assert!(response.edns.is_none() && response.recursion_available);
    assert!(!response.checking_disabled && !response.authoritative);

    plain.metadata.checking_disabled = true;
    plain.metadata.recursion_desired = false;
    plain.add_query(op::Query::query(name("second."), RecordType::A));
    let response = denied(&plain, Denial::Refused);
    assert_eq!(response.response_code, ResponseCode::Refused);
    assert!(response.checking_disabled);
}

#[test]
fn a_denial_uses_edns_if_the_query_does() {
    let mut message = query("a.", RecordType::A);
    let mut theirs = edns();
    theirs.set_dnssec_ok(true);
    message.set_edns(theirs.clone());
    let ours = denied(&message, Denial::NoSuchName).edns.unwrap();
    assert!(ours.flags().dnssec_ok);
    assert_eq!((ours.version(), ours.max_payload()), (0, 1232));
    let reason = Vec::<u8>::try_from(ours.option(15.into()).unwrap()).unwrap();
    assert_eq!(reason, [0, 15]);

    theirs.set_version(1);
    message.set_edns(theirs);
    let response = denied(&message, Denial::NoSuchName);
    assert_eq!(u16::from(response.response_code), 16); // BADVERS
}

#[test]
fn a_query_that_is_not_a_standard_one_is_refused() {
    let mut message = query("example.", RecordType::SOA);
    message.metadata.op_code = OpCode::Notify;
    let response = denied(&message, Denial::NoSuchName);
    assert_eq!(response.response_code, ResponseCode::Refused);
}

prop_compose! {
    fn any_name()(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)) -> Name {
        Name::from_labels(labels).unwrap()
    }
}

proptest! {
    #[test]
    fn a_query_is_read_as_written_and_its_denial_answers_it(
        id: u16, asked in any_name(), kind: u16, speaks_edns: bool, dnssec_ok: bool,
    ) {
        let mut message = query(".", kind.into());
        message.metadata.id = id;
        message.queries[0].set_name(asked.clone());
        if speaks_edns {
            message.set_edns(edns().set_dnssec_ok(dnssec_ok).clone());
        }
        let bytes = message.to_vec().unwrap();
        let read = read_query(&bytes).unwrap();
        prop_assert_eq!((read.id, read.question.record_type), (id, DnsType(kind)));
        prop_assert!(read.question.name.bytes().all(|byte| byte.is_ascii_graphic()));
        let denial = read_response(&deny(&bytes, Denial::NoSuchName).unwrap()).unwrap();
        prop_assert_eq!((denial.id, denial.rcode), (id, Rcode(3)));
        prop_assert_eq!(denial.question, Some(read.question));
        denied(&message, Denial::Refused);
    }

    #[test]
    fn an_answer_is_read_as_written(asked in any_name(), ttl in 0..=i32::MAX as u32, v6: bool) {
        let address: IpAddr = if v6 { [1; 16].into() } else { [192, 0, 2, 1].into() };
        let mut message = response(".", &[(".", ttl, &address.to_string())]);
        message.queries[0].set_name(asked.clone());
        message.answers[0].name = asked;
        prop_assert_eq!(addresses(&message), [format!("{address} {ttl}")]);
    }
}
