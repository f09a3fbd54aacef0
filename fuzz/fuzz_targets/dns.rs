//! No bytes panic the readers; what is read as a query can be denied, and what a response tells of the
//! asked name is learnt.
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
        let response = read_response(&denial).expect("our own response");
        assert_eq!(
            (response.id, response.question),
            (query.id, Some(query.question))
        );
    }
    if let Ok(response) = read_response(bytes) {
        let (mut names, now) = (Names::new(), Instant::now());
        names.learn(&response, now);
        for (address, _) in response.addresses() {
            let asked = response.question.as_ref().map(|asked| asked.name.as_str());
            assert_eq!(names.label(address, now), asked);
        }
    }
});
