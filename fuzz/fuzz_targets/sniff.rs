//! No bytes panic, and none that follow change what was decided.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetrack_proxy::sniff::{Sniffed, sniff};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let begun = sniff(&bytes[..usize::from(cut).min(bytes.len())]);
    if begun != Sniffed::More {
        assert_eq!(begun, sniff(bytes));
    }
});
