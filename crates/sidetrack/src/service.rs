//! The credentials of a service, as issued by the engine.

use std::env;
use std::fmt;

use sidetrack_abi::kernel::Listen;
use zerocopy::{FromBytes, IntoBytes};

use crate::Error;

/// Name of the environment variable that holds the credentials of the service: the value of the
/// option LISTEN as 64 hexadecimal digits. `sidetrack run --via exec:…` sets it.
pub const LISTEN_VARIABLE: &str = "SIDETRACK_LISTEN";
/// Name of the environment variable that holds the name of the service. `sidetrack run` sets it.
pub const NAME_VARIABLE: &str = "SIDETRACK_NAME";
/// Name of the environment variable that holds the descriptors for pended connects: those of the ring
/// buffer and of the senders for IPv4 and IPv6, in decimal with commas between them; `-` is none.
/// `sidetrack run` sets it.
pub const PENDED_VARIABLE: &str = "SIDETRACK_PENDED";

/// The credentials of one service, for its listeners of TCP and UDP, IPv4 and IPv6.
///
/// A service is a redirect target with a name. In WFP it is a redirect handle (docs/wfp.md, 3.1).
/// The credentials are the value of the option LISTEN, 32 bytes (`struct sidetrack_listen` in
/// bpf/sidetrack.h). `Debug` does not print the secret in them.
#[derive(Clone)]
pub struct Service {
    listen: Listen,
}

impl Service {
    /// Reads the credentials from the environment variable [`LISTEN_VARIABLE`].
    ///
    /// # Errors
    ///
    /// [`Error::NoCredentials`] if the variable is not set, [`Error::BadCredentials`] if it does
    /// not hold 64 hexadecimal digits.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(LISTEN_VARIABLE).map_err(|_| Error::NoCredentials(LISTEN_VARIABLE))?;
        Self::from_hex(&text).ok_or(Error::BadCredentials(LISTEN_VARIABLE))
    }

    /// Parses credentials of 64 hexadecimal digits. `None` if `text` is anything else.
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

    /// Takes credentials as the bytes of the option LISTEN, as the daemon returns them. `None` if
    /// they are not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            listen: Listen::read_from_bytes(bytes).ok()?,
        })
    }

    /// The value of the option LISTEN.
    pub(crate) fn option(&self) -> &[u8] {
        self.listen.as_bytes()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("number", &self.listen.service)
            .finish_non_exhaustive() // without the secret
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
