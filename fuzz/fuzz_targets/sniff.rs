//! No bytes make the recognition of protocols panic, and bytes that follow do not change a result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetrack_proxy::sniff::{Sniffed, sniff};

fuzz_target!(|input: (u16, &[u8])| {
    let (length, bytes) = input;
    let of_opening = sniff(&bytes[..usize::from(length).min(bytes.len())]);
    if of_opening != Sniffed::More {
        assert_eq!(of_opening, sniff(bytes));
    }
});
