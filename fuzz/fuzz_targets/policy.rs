//! No bytes panic the policy reader; what is wrong has a place in the file; what is right is a policy
//! that differs in nothing from itself, and whose filters keep the rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetrack_policy::Listing;
use sidetrack_policy::diff::Diff;
use sidetrack_policy::file::{Surroundings, parse};

fuzz_target!(|text: &[u8]| {
    let surroundings = Surroundings {
        file: "policy.toml",
        owner: None,
        others: &Listing::default(),
        users: &|name| (name == "alice").then_some(1000),
    };
    match parse(text, &surroundings) {
        Ok(policy) => {
            assert!(Diff::between(&policy.objects, &policy.objects).is_empty());
            assert!(policy.objects.filters.iter().all(|one| one.check().is_ok()));
        }
        Err(faults) => assert!(!faults.shown.is_empty() && !faults.to_string().is_empty()),
    }
});
