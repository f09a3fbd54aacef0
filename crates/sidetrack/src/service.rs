//! A service's credentials, as the engine issued them.

use std::env;
use std::fmt;

use sidetrack_abi::kernel::Listen;
use zerocopy::{FromBytes, IntoBytes};

use crate::Error;

/// The environment variable in which a proxy finds its credentials: the LISTEN option's value in
/// hexadecimal, 64 digits.
pub const LISTEN_VARIABLE: &str = "SIDETRACK_LISTEN";
/// The environment variable with the service's name.
pub const NAME_VARIABLE: &str = "SIDETRACK_NAME";

/// One redirection identity (WFP: a redirect handle). Serves IPv4 and IPv6 alike.
#[derive(Clone)]
pub struct Service {
    listen: Listen,
}

impl Service {
    /// The service this process was started as.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(LISTEN_VARIABLE).map_err(|_| Error::NoCredentials(LISTEN_VARIABLE))?;
        Self::from_hex(&text).ok_or(Error::BadCredentials(LISTEN_VARIABLE))
    }

    /// The service of these credentials: 64 hexadecimal digits. `None` if they are not that.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; size_of::<Listen>()];
        if text.len() != 2 * bytes.len() || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self {
            listen: Listen::read_from_bytes(&bytes).ok()?,
        })
    }

    /// The service of these credentials: the LISTEN option's value.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            listen: Listen::read_from_bytes(bytes).ok()?,
        })
    }

    pub(crate) fn option(&self) -> &[u8] {
        self.listen.as_bytes()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("number", &self.listen.service)
            .finish_non_exhaustive() // the secret stays one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_64_hexadecimal_digits() {
        let service = Service::from_hex(&"0a".repeat(32)).unwrap();
        assert_eq!(service.option(), [0x0a; 32]);
        for bad in [
            "",
            "0a",
            &"0g".repeat(32),
            &"0a".repeat(33),
            &"ä".repeat(32),
        ] {
            assert!(Service::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_secret_is_not_printed() {
        let service = Service::from_hex(&"7f".repeat(32)).unwrap();
        assert!(!format!("{service:?}").contains("127"));
    }
}
