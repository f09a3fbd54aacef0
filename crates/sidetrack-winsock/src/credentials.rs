//! The service that this process is: what its listeners are marked with, and what stands for elevation.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::sync::RwLock;
use std::{env, fs};

use sidetrack_abi::kernel::Listen;

/// As `sidetrack run` and the daemon's callers set it: 64 hexadecimal digits.
const VARIABLE: &str = "SIDETRACK_LISTEN";
const CAP_NET_ADMIN: u32 = 12;

static CREDENTIALS: RwLock<Option<[u8; size_of::<Listen>()]>> = RwLock::new(None);

pub(crate) fn read_environment() {
    if let Ok(text) = env::var(VARIABLE) {
        set(&text);
    }
}

/// False if it is not 64 hexadecimal digits.
pub(crate) fn set(text: &str) -> bool {
    let parsed = parse(text);
    if parsed.is_some() {
        *CREDENTIALS.write().unwrap_or_else(|held| held.into_inner()) = parsed;
    }
    parsed.is_some()
}

pub(crate) fn get() -> Option<[u8; size_of::<Listen>()]> {
    *CREDENTIALS.read().unwrap_or_else(|held| held.into_inner())
}

/// May it set records? A service may, and an administrator (CAP_NET_ADMIN).
pub(crate) fn is_elevated() -> bool {
    get().is_some() || is_administrator().unwrap_or(false)
}

fn is_administrator() -> Option<bool> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    let set = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(set & 1 << CAP_NET_ADMIN != 0)
}

fn parse(text: &str) -> Option<[u8; size_of::<Listen>()]> {
    let mut bytes = [0; size_of::<Listen>()];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
