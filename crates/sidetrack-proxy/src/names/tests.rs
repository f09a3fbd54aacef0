use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::dns::{DnsAnswer, DnsClass, DnsData, DnsQuestion, DnsType, Rcode};

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

/// A response for `name`, with addresses and their TTL.
fn response(name: &str, addresses: &[(IpAddr, u32)]) -> DnsResponse {
    let answers = addresses.iter().map(|&(address, ttl)| DnsAnswer {
        name: name.into(),
        record_type: DnsType::A,
        ttl,
        data: DnsData::Address(address),
    });
    DnsResponse {
        id: 1,
        rcode: Rcode(0),
        truncated: false,
        question: Some(DnsQuestion {
            name: name.into(),
            record_type: DnsType::A,
            class: DnsClass::IN,
        }),
        answers: answers.collect(),
        left_out: 0,
    }
}

#[test]
fn a_label_is_valid_for_its_time() {
    let now = Instant::now();
    let mut names = Names::new();
    let ttls = [(1, 0), (2, 300), (3, u32::MAX)];
    names.learn(
        &response("a.example", &ttls.map(|(n, ttl)| (address(n), ttl))),
        now,
    );
    for (number, time) in [(1, TTL_MIN), (2, second(300)), (3, TTL_MAX)] {
        let last = now + time - Duration::from_nanos(1);
        assert_eq!(names.label(address(number), last), Some("a.example"));
        assert_eq!(names.label(address(number), now + time), None);
    }
    assert_eq!(names.label(address(4), now), None);
    assert_eq!((names.len(), names.evicted()), (3, 0));
}

#[test]
fn the_latest_name_counts() {
    let now = Instant::now();
    let mut names = Names::new();
    names.learn(&response("a.example", &[(address(1), 3600)]), now);
    names.learn(&response("b.example", &[(address(1), 60)]), now);
    assert_eq!(names.label(address(1), now), Some("b.example"));
    assert_eq!(names.label(address(1), now + second(60)), None);
    assert_eq!(names.len(), 1);
}

#[test]
fn a_mapped_address_is_the_ipv4_one() {
    let now = Instant::now();
    let mut names = Names::new();
    names.learn(
        &response("a.example", &[("::ffff:192.0.2.1".parse().unwrap(), 60)]),
        now,
    );
    assert_eq!(
        names.label("192.0.2.1".parse().unwrap(), now),
        Some("a.example")
    );
    assert_eq!(
        names.label("::ffff:192.0.2.1".parse().unwrap(), now),
        Some("a.example")
    );
}

#[test]
fn an_address_of_an_alias_has_the_name_in_the_question() {
    let now = Instant::now();
    let mut names = Names::new();
    let mut response = response("edge.example", &[(address(1), 600)]);
    response.question.as_mut().unwrap().name = "www.example".into();
    names.learn(&response, now);
    assert!(names.is_empty());
    response.answers.push(DnsAnswer {
        name: "www.example".into(),
        record_type: DnsType::CNAME,
        ttl: 120,
        data: DnsData::Alias("edge.example".into()),
    });
    names.learn(&response, now);
    assert_eq!(
        names.label(address(1), now + second(119)),
        Some("www.example")
    );
    assert_eq!(names.label(address(1), now + second(120)), None);
}

#[test]
fn the_least_recently_learnt_is_removed_and_counted() {
    let now = Instant::now();
    let mut names = Names::new();
    let full = 0..ADDRESSES_MAX as u32;
    for number in full.clone() {
        names.learn(&response("a.example", &[(address(number), 600)]), now);
    }
    names.learn(&response("b.example", &[(address(0), 600)]), now); // learnt again, so not the next to be removed
    names.learn(&response("c.example", &[(address(full.end), 600)]), now);
    assert_eq!((names.len(), names.evicted()), (ADDRESSES_MAX, 1));
    assert_eq!(names.label(address(0), now), Some("b.example"));
    assert_eq!(names.label(address(1), now), None);
    assert_eq!(names.label(address(full.end), now), Some("c.example"));

    // A name that is not valid any more is not counted.
    let later = now + second(600);
    names.learn(
        &response("d.example", &[(address(full.end + 1), 600)]),
        later,
    );
    assert_eq!((names.len(), names.evicted()), (ADDRESSES_MAX, 1));
}

proptest! {
    /// Compares the table with a list that is searched from its end.
    #[test]
    fn the_table_has_what_was_learnt_last(
        steps in prop::collection::vec((0..20_u32, 0..400_u32, 0..5_usize, 0..200_u64), 1..60),
        asked in 0..20_u32,
    ) {
        let mut now = Instant::now();
        let mut names = Names::new();
        let mut learnt = Vec::new();
        for (number, ttl, name, wait) in steps {
            let name = ["a", "b", "c", "d", "e"][name];
            names.learn(&response(name, &[(address(number), ttl)]), now);
            learnt.push((number, name, now + second(ttl.max(60).into())));
            now += second(wait);
        }
        let last = learnt.iter().rev().find(|(number, ..)| *number == asked);
        let wanted = last.filter(|(.., until)| now < *until).map(|(_, name, _)| *name);
        prop_assert_eq!(names.label(address(asked), now), wanted);
        prop_assert_eq!(names.order.len(), names.labels.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))] // each case fills the table

    #[test]
    fn the_table_is_bounded(responses in prop::collection::vec(any::<u32>(), 30..60)) {
        let now = Instant::now();
        let mut names = Names::new();
        for begin in responses {
            let addresses: Vec<_> = (0..256).map(|n| (address(begin.wrapping_add(n)), 60)).collect();
            names.learn(&response("a", &addresses), now);
            prop_assert!(names.len() <= ADDRESSES_MAX);
            prop_assert_eq!(names.label(addresses[255].0, now), Some("a"));
        }
        prop_assert_eq!(names.order.len(), names.labels.len());
    }
}
