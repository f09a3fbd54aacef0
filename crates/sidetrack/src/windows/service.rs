//! Where the driver redirects to.

use std::env;
use std::net::SocketAddr;

use crate::Error;

/// The environment variable in which a proxy finds the address that the driver redirects to, such as 127.0.0.1:8080.
pub const LISTEN_VARIABLE: &str = "SIDETRACK_LISTEN";

/// One redirection identity, by the address of its listener.
#[derive(Clone, Debug)]
pub struct Service {
    address: SocketAddr,
}

impl Service {
    /// The service this process was started as.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(LISTEN_VARIABLE).map_err(|_| Error::NoCredentials(LISTEN_VARIABLE))?;
        let address = text
            .parse()
            .map_err(|_| Error::BadCredentials(LISTEN_VARIABLE))?;
        Ok(Self { address })
    }

    /// The service to which the driver redirects at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
