//! The host names that clients send.

/// The longest host name that is reported, in bytes; DNS has no longer ones. A longer one is left
/// out, since a part of it could match the wrong rules.
pub const HOST_SIZE_MAX: usize = 255;

/// A host name as it is reported: in lower case; `None` if it is empty or too long.
pub(super) fn reported_host(name: &[u8]) -> Option<String> {
    if name.is_empty() || name.len() > HOST_SIZE_MAX {
        return None;
    }
    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
}
