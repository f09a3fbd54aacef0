//! The credentials of the service that this process belongs to. With them the library marks the
//! process's listeners as the service's; having them also counts as elevation.

#[allow(unsafe_code)]
pub(crate) mod ffi;

use std::sync::RwLock;
use std::{env, fs};

use sidetrack_abi::kernel::Listen;

/// Name of the environment variable with the credentials, 64 hexadecimal digits. `sidetrack run`
/// sets it.
const VARIABLE: &str = "SIDETRACK_LISTEN";
const CAP_NET_ADMIN: u32 = 12;

static CREDENTIALS: RwLock<Option<[u8; size_of::<Listen>()]>> = RwLock::new(None);

/// Takes the credentials from the environment, if they are there and valid.
pub(crate) fn read_environment() {
    if let Ok(text) = env::var(VARIABLE) {
        set(&text);
    }
}

/// Sets the credentials. Returns false if `text` is not 64 hexadecimal digits.
pub(crate) fn set(text: &str) -> bool {
    let parsed = parse(text);
    if parsed.is_some() {
        *CREDENTIALS
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = parsed;
    }
    parsed.is_some()
}

/// The credentials: the value of the option LISTEN. `None` if the process belongs to no service.
pub(crate) fn get() -> Option<[u8; size_of::<Listen>()]> {
    *CREDENTIALS
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether the process may set records: it belongs to a service, or it has CAP_NET_ADMIN.
pub(crate) fn is_elevated() -> bool {
    get().is_some() || is_administrator().unwrap_or(false)
}

/// Whether the calling thread has CAP_NET_ADMIN in its effective set. `None` if /proc does not show
/// it.
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
