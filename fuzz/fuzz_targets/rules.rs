//! No text makes the parser of patterns panic, and a pattern that it accepts is the same if it is
//! printed and parsed again.
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
