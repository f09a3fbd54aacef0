//! The address that the driver redirects to.

use std::env;
use std::net::SocketAddr;

use crate::Error;

/// Name of the environment variable that holds the address to which the driver redirects, for
/// example 127.0.0.1:8080.
pub const LISTEN_VARIABLE: &str = "SIDETRACK_LISTEN";

/// A service, identified by the address of its listener.
#[derive(Clone, Debug)]
pub struct Service {
    address: SocketAddr,
}

impl Service {
    /// Reads the address from the environment variable [`LISTEN_VARIABLE`].
    ///
    /// # Errors
    ///
    /// [`Error::NoCredentials`] if the variable is not set, [`Error::BadCredentials`] if it does
    /// not hold an address and a port.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(LISTEN_VARIABLE).map_err(|_| Error::NoCredentials(LISTEN_VARIABLE))?;
        let address = text
            .parse()
            .map_err(|_| Error::BadCredentials(LISTEN_VARIABLE))?;
        Ok(Self { address })
    }

    /// The service with this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
