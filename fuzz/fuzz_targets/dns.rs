//! No bytes make the readers of DNS messages panic. A query can be denied, and the addresses in a
//! response are learnt for the queried name.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use sidetrack_proxy::dns::{Denial, deny, read_query, read_response};
use sidetrack_proxy::names::Names;

fuzz_target!(|bytes: &[u8]| {
    let denial = deny(bytes, Denial::NoSuchName);
    assert_eq!(denial.is_some(), read_query(bytes).is_ok());
    if let (Ok(query), Some(denial)) = (read_query(bytes), denial) {
        assert!(denial.len() < 512);
        let response = read_response(&denial).expect("a denial is a response");
        assert_eq!(
            (response.id, response.question),
            (query.id, Some(query.question))
        );
    }
    if let Ok(response) = read_response(bytes) {
        let (mut names, now) = (Names::new(), Instant::now());
        names.learn(&response, now);
        for (address, _) in response.addresses() {
            let question = response.question.as_ref();
            let queried = question.map(|question| question.name.as_str());
            assert_eq!(names.label(address, now), queried);
        }
    }
});
