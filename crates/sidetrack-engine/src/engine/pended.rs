//! What a proxy needs to hold the connects of its clients: the ring buffer of its service's notices,
//! and the senders.

use std::io;
use std::os::fd::OwnedFd;

use sidetrack_abi::kernel::{self, Listen};
use sidetrack_policy::ConnectMode;

use super::Engine;
use super::notices::open_ring;
use crate::{Error, ServiceSpec};

/// The descriptors with which the proxy of a service holds connects and answers them. They are the
/// caller's own; the engine keeps no copies.
#[derive(Debug)]
pub struct PendedDescriptors {
    /// The ring buffer of the service's notices, a BPF map.
    pub ring: OwnedFd,
    /// The service's sender: a raw IPv4 socket that only sends.
    pub sender4: OwnedFd,
    /// The same for IPv6; `None` where the kernel has no IPv6.
    pub sender6: Option<OwnedFd>,
}

/// Why an engine gives no [`PendedDescriptors`].
#[derive(Debug, thiserror::Error)]
pub enum PendedRefusal {
    /// The service does not pend connects.
    #[error("the service accepts its connects, and does not pend them")]
    Accepted,
    /// No service has these credentials.
    #[error("these are not the credentials of a service")]
    Credentials,
    /// The kernel side has no descriptors for it.
    #[error("pended connects are not available on this host")]
    Unavailable(#[from] Error),
}

impl Engine {
    /// The descriptors for pended connects of the service that has these credentials.
    ///
    /// Errors: [`PendedRefusal`].
    pub fn pended_descriptors(
        &mut self,
        listen: &Listen,
    ) -> Result<PendedDescriptors, PendedRefusal> {
        if self.service_with_credentials(listen)?.connect != ConnectMode::Pended {
            return Err(PendedRefusal::Accepted);
        }
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let ring = self.ring(listen.service)?.ok_or_else(missing);
        let ring = open_ring(ring.map_err(Error::system("find the ring buffer of a service"))?)?;
        let (sender4, sender6) = self.senders(listen.service)?;
        Ok(PendedDescriptors {
            ring,
            sender4,
            sender6,
        })
    }

    /// The service, if these are its credentials: the option LISTEN takes the same ones. What was a service
    /// has a secret of zeros.
    fn service_with_credentials(&self, listen: &Listen) -> Result<&ServiceSpec, PendedRefusal> {
        let is_known = (listen.version, listen.engine_id) == (kernel::ABI_VERSION, self.id);
        let known = self
            .services
            .get(&listen.service)
            .filter(|_| is_known && listen.secret != [0; 16]);
        let known = known.ok_or(PendedRefusal::Credentials)?;
        let secret = self.read_service(listen.service)?.map(|value| value.secret);
        match secret == Some(listen.secret) {
            true => Ok(known),
            false => Err(PendedRefusal::Credentials),
        }
    }
}
