use std::sync::LazyLock;

use super::*;

#[allow(dead_code, unreachable_pub)]
#[path = "../../../tests/quic/seal.rs"]
mod seal;

use seal::{FRAME, Sealer, V1, crypto, unhex};

/// The size of the CRYPTO frame's header, which is before the ClientHello.
const CRYPTO_HEAD: usize = 4;

/// Two datagrams with the two parts of a ClientHello.
fn initials() -> [Vec<u8>; 2] {
    let client = Sealer::new(V1, &unhex("8394c8f03e515708"));
    let frame = unhex(FRAME);
    let hello = &frame[CRYPTO_HEAD..];
    [(2, 0, 100), (3, 100, hello.len())]
        .map(|(number, from, to)| client.datagram(number, &crypto(from, &hello[from..to])))
}

/// A query for the IPv4 address of a name.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The response to this query, with one address.
fn response(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = query(id, name);
    bytes[2] |= 0x80;
    bytes[7] = 1;
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    bytes
}

fn rules(deny: &[&str], allow: &[&str]) -> Rules {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Rules::new(parse(deny), parse(allow))
}

static PENDING: LazyLock<Arc<()>> = LazyLock::new(Arc::default);

fn context(rules: &Rules) -> InspectionContext<'_> {
    InspectionContext {
        pending: &PENDING,
        rules,
        denial: Denial::NoSuchName,
        quic: Quic::Allow,
    }
}

fn inspection(destination: &str, rules: &Rules) -> Inspection {
    Inspection::new(destination.parse().unwrap(), rules)
}

#[test]
fn a_query_and_its_answer_are_reported_and_learnt() {
    let (rules, names) = (Rules::default(), Mutex::default());
    let mut flow = inspection("192.0.2.53:53", &rules);
    assert_eq!(
        flow.on_client_datagram(&query(1, "shop.example"), &context(&rules)),
        Ruling::Pass
    );
    assert!(!flow.is_answered());
    flow.on_origin_datagram(&response(2, "shop.example"), &names); // no query has this id
    assert!(!flow.is_answered() && names.lock().unwrap().is_empty());
    flow.on_origin_datagram(&response(1, "shop.example"), &names);
    assert!(flow.is_answered());
    let address = "192.0.2.7".parse().unwrap();
    let names = names.lock().unwrap();
    assert_eq!(names.label(address, Instant::now()), Some("shop.example"));
    let (Seen::Dns { queries, more: 0 }, _) = flow.into_seen() else {
        panic!("it is DNS");
    };
    assert_eq!(queries.len(), 1);
    assert_eq!(queries[0].answer.as_deref(), Some("NOERROR"));
    assert_eq!(
        (&queries[0].addresses[..], queries[0].ttl),
        (&[address][..], Some(60))
    );
}

#[test]
fn a_denied_query_is_answered_and_others_pass() {
    let rules = rules(&["*.ads.example"], &[]);
    let mut flow = inspection("192.0.2.53:53", &rules);
    let Ruling::Answer(answer) =
        flow.on_client_datagram(&query(7, "x.ads.example"), &context(&rules))
    else {
        panic!("it is answered");
    };
    assert_eq!((&answer[..2], answer[3] & 15), (&[0, 7][..], 3));
    assert!(flow.is_answered() && !flow.is_denied());
    assert_eq!(
        flow.on_client_datagram(&query(8, "shop.example"), &context(&rules)),
        Ruling::Pass
    );
    let (_, verdict) = flow.into_seen();
    assert_eq!(verdict.rule.as_deref(), Some("deny *.ads.example"));
}

/// A query for the addresses of two names.
fn double_query(id: u16, names: [&str; 2]) -> Vec<u8> {
    let mut bytes = query(id, names[0]);
    bytes[5] = 2;
    bytes.extend(&query(id, names[1])[12..]);
    bytes
}

#[test]
fn each_question_of_a_query_is_reported_and_may_be_denied() {
    let rules = rules(&["*.ads.example"], &[]);
    for (names, denied) in [
        (["a.example", "b.example"], false),
        (["a.example", "x.ads.example"], true),
        (["x.ads.example", "a.example"], true),
    ] {
        let mut flow = inspection("192.0.2.53:53", &rules);
        let ruling = flow.on_client_datagram(&double_query(1, names), &context(&rules));
        assert_eq!(matches!(ruling, Ruling::Answer(_)), denied, "{ruling:?}");
        if !denied {
            assert_eq!(ruling, Ruling::Pass);
            assert!(!flow.is_answered());
            flow.on_origin_datagram(&response(1, names[0]), &Mutex::default());
        }
        assert!(flow.is_answered());
        let (Seen::Dns { queries, .. }, _) = flow.into_seen() else {
            panic!("it is DNS");
        };
        assert_eq!(queries.len(), 2);
        assert!(
            queries.iter().all(|one| one.denied == denied),
            "{queries:?}"
        );
        assert!(
            queries.iter().all(|one| one.answer.is_some()),
            "{queries:?}"
        );
    }
}

#[test]
fn an_allowed_query_does_not_allow_other_datagrams() {
    let rules = rules(&[], &["shop.example:443"]);
    let mut flow = inspection("192.0.2.53:53", &rules);
    assert_eq!(
        flow.on_client_datagram(&query(1, "shop.example"), &context(&rules)),
        Ruling::Pass
    );
    assert_eq!(
        flow.on_client_datagram(b"anything else", &context(&rules)),
        Ruling::Drop
    );
    assert!(matches!(
        flow.on_client_datagram(&query(2, "x.example"), &context(&rules)),
        Ruling::Answer(_)
    ));
}

#[test]
fn malformed_dns_is_dropped_if_a_rule_needs_names() {
    let rules = rules(&["bad.example"], &[]);
    let cut = &query(1, "bad.example")[..20];
    let mut flow = inspection("192.0.2.53:53", &rules);
    assert_eq!(flow.on_client_datagram(cut, &context(&rules)), Ruling::Drop);
    let mut elsewhere = inspection("192.0.2.53:5300", &rules);
    assert_eq!(
        elsewhere.on_client_datagram(cut, &context(&rules)),
        Ruling::Pass
    );
    let free = Rules::default();
    let mut unruled = inspection("192.0.2.53:53", &free);
    assert_eq!(
        unruled.on_client_datagram(cut, &context(&free)),
        Ruling::Pass
    );
}

#[test]
fn a_hello_is_held_back_until_complete_if_a_rule_may_deny_it() {
    let [first, second] = initials();
    let rules = rules(&["bad.example"], &[]);
    let mut flow = inspection("192.0.2.1:443", &rules);
    assert_eq!(
        flow.on_client_datagram(&first, &context(&rules)),
        Ruling::HoldBack
    );
    assert_eq!(
        flow.on_client_datagram(&second, &context(&rules)),
        Ruling::Pass
    );
    assert_eq!(flow.take_held_back(), std::slice::from_ref(&first));
    let (Seen::Quic { sni, alpn, .. }, verdict) = flow.into_seen() else {
        panic!("it is QUIC");
    };
    assert_eq!(
        (sni.as_deref(), &alpn[..]),
        (Some("example.com"), &["alpn".to_owned()][..])
    );
    assert!(!verdict.is_deny());

    let free = Rules::default();
    let mut unruled = inspection("192.0.2.1:443", &free);
    assert_eq!(
        unruled.on_client_datagram(&first, &context(&free)),
        Ruling::Pass
    );
    assert_eq!(
        unruled.on_client_datagram(&second, &context(&free)),
        Ruling::Pass
    );
    assert_eq!(unruled.into_seen().0.host(), Some("example.com"));
}

#[test]
fn a_denied_hello_and_all_that_follows_are_dropped() {
    let [first, second] = initials();
    let rules = rules(&["example.com"], &[]);
    let mut flow = inspection("192.0.2.1:443", &rules);
    assert_eq!(
        flow.on_client_datagram(&first, &context(&rules)),
        Ruling::HoldBack
    );
    assert_eq!(
        flow.on_client_datagram(&second, &context(&rules)),
        Ruling::Drop
    );
    assert!(flow.is_denied());
    assert_eq!(
        flow.take_held_back(),
        [first],
        "they must be counted as denied"
    );
    assert_eq!(
        flow.on_client_datagram(&[0x40; 50], &context(&rules)),
        Ruling::Drop
    );
    assert_eq!(flow.into_seen().1.rule.as_deref(), Some("deny example.com"));
}

#[test]
fn beyond_the_limit_of_pending_flows_a_hello_is_dropped_or_passes_unread() {
    let [first, _] = initials();
    let all = Arc::default();
    let (free, named) = (Rules::default(), rules(&["bad.example"], &[]));
    let in_full = |rules| InspectionContext {
        pending: &all,
        ..context(rules)
    };
    let mut others: Vec<_> = (0..PENDING_MAX)
        .map(|_| inspection("192.0.2.1:443", &named))
        .collect();
    for other in &mut others {
        assert_eq!(
            other.on_client_datagram(&first, &in_full(&named)),
            Ruling::HoldBack
        );
    }
    let mut denied = inspection("192.0.2.1:443", &named);
    assert_eq!(
        denied.on_client_datagram(&first, &in_full(&named)),
        Ruling::Drop
    );
    let mut unruled = inspection("192.0.2.1:443", &free);
    assert_eq!(
        unruled.on_client_datagram(&first, &in_full(&free)),
        Ruling::Pass
    );
    others.pop();
    assert_eq!(
        denied.on_client_datagram(&first, &in_full(&named)),
        Ruling::HoldBack
    );
}

#[test]
fn refused_quic_is_dropped() {
    let [first, _] = initials();
    let rules = Rules::default();
    let mut refusing = context(&rules);
    refusing.quic = Quic::Refuse;
    let mut flow = inspection("192.0.2.1:4433", &rules);
    assert_eq!(flow.on_client_datagram(&first, &refusing), Ruling::Drop);
    assert_eq!(flow.into_seen().1.rule.as_deref(), Some("quic refuse"));
    let mut other = inspection("192.0.2.1:4433", &rules);
    assert_eq!(
        other.on_client_datagram(b"anything else", &refusing),
        Ruling::Pass
    );
}

#[test]
fn other_datagrams_of_any_length_are_raw() {
    let rules = Rules::default();
    let mut flow = inspection("192.0.2.1:9", &rules);
    for length in [0, 1, 11, 12, 1200, 65_507] {
        assert_eq!(
            flow.on_client_datagram(&vec![0xff; length], &context(&rules)),
            Ruling::Pass
        );
        flow.on_origin_datagram(&vec![0; length], &Mutex::default());
    }
    assert!(!flow.is_answered());
    assert_eq!(flow.into_seen().0, Seen::Raw);
}

#[test]
fn questions_beyond_the_limit_are_counted() {
    let (rules, names) = (Rules::default(), Mutex::default());
    let mut flow = inspection("192.0.2.53:53", &rules);
    for id in 0..20 {
        flow.on_client_datagram(&query(id, "shop.example"), &context(&rules));
    }
    flow.on_client_datagram(&query(0, "shop.example"), &context(&rules)); // repeated, so not counted
    for id in 0..20 {
        assert!(!flow.is_answered());
        flow.on_origin_datagram(&response(id, "shop.example"), &names);
    }
    assert!(flow.is_answered());
    let (Seen::Dns { queries, more: 4 }, _) = flow.into_seen() else {
        panic!("it is DNS");
    };
    assert_eq!(queries.len(), QUERIES);
}

const QUERIES: usize = super::super::QUERIES_MAX;
