//! No text panics the pattern parser, and what it takes prints as the same pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetrack_proxy::Pattern;

fuzz_target!(|input: (&str, &str)| {
    let (text, host) = input;
    match text.parse::<Pattern>() {
        Ok(pattern) => {
            pattern.matches(([192, 0, 2, 1], 443).into(), Some(host));
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        Err(error) => assert!(error.column <= text.chars().count() + 1),
    }
});
