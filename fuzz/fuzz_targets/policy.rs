//! No bytes make the reader of policy files panic. A file that is refused has at least one error,
//! which displays as a text. A file that is accepted gives a policy that does not differ from
//! itself, and its filters pass their checks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetrack_policy_file::diff::Diff;
use sidetrack_policy_file::{Listing, ParseOptions, parse};

fuzz_target!(|text: &[u8]| {
    let options = ParseOptions {
        file: "policy.toml",
        owner: None,
        others: &Listing::default(),
        users: &|name| (name == "alice").then_some(1000),
    };
    match parse(text, &options) {
        Ok(policy) => {
            assert!(Diff::between(&policy.objects, &policy.objects).is_empty());
            assert!(policy.objects.filters.iter().all(|one| one.check().is_ok()));
        }
        Err(errors) => {
            assert!(!errors.shown.is_empty() && !errors.to_string().is_empty());
        }
    }
});
