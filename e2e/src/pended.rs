//! Services that pend connects, and their proxies.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use sidetrack::{Error, Pending};
use sidetrack_engine::{ConnectMode, RegisteredService, ServiceSpec, open_ring};

use crate::proxy::{copy_both_ways, sdk_service};
use crate::{Host, Process};

/// The descriptors of a service that pends connects: ring buffer, senders for IPv4 and IPv6.
pub struct PendedDescriptors {
    ring: OwnedFd,
    sender4: OwnedFd,
    sender6: Option<OwnedFd>,
}

impl Host {
    /// Adds a service that pends connects. Returns it also as the SDK's type, with its descriptors.
    pub fn pended_service(&mut self, name: &str) -> (RegisteredService, sidetrack::Service) {
        let (service, descriptors) = self.pended_service_for_processes(name);
        let PendedDescriptors {
            ring,
            sender4,
            sender6,
        } = descriptors;
        let sdk = sdk_service(&service).with_pended(ring, sender4, sender6);
        (service, sdk.pended())
    }

    /// Adds a service that pends connects, whose proxies are separate processes, one at a time.
    pub fn pended_service_for_processes(
        &mut self,
        name: &str,
    ) -> (RegisteredService, PendedDescriptors) {
        let service = self.service_with_spec(&ServiceSpec {
            connect: ConnectMode::Pended,
            ..ServiceSpec::new(name)
        });
        let ring = self.engine().ring(service.number);
        let ring = ring
            .expect("the ring buffer is found")
            .expect("the service pends");
        let ring = open_ring(ring).expect("the ring buffer is opened");
        let senders = self.engine().senders(service.number);
        let (sender4, sender6) = senders.expect("the senders are made");
        let descriptors = PendedDescriptors {
            ring,
            sender4,
            sender6,
        };
        (service, descriptors)
    }

    /// Starts a proxy as a separate process that relays with pended connects.
    pub fn pended_proxy(
        &self,
        service: &RegisteredService,
        descriptors: &PendedDescriptors,
    ) -> Process {
        let variable = (sidetrack::PENDED_VARIABLE, descriptors.inheritable());
        Process::proxy_with_variable(&self.service_cgroup, service, "relay-pended", variable)
    }
}

impl PendedDescriptors {
    /// Lets programs that this process starts inherit them. Returns the value of SIDETRACK_PENDED.
    fn inheritable(&self) -> String {
        let inherit = |descriptor: &OwnedFd| {
            fcntl_setfd(descriptor.as_fd(), FdFlags::empty()).expect("the descriptor is open");
            descriptor.as_raw_fd()
        };
        let mut text = format!("{},{},", inherit(&self.ring), inherit(&self.sender4));
        let _ = match &self.sender6 {
            Some(sender) => write!(text, "{}", inherit(sender)),
            None => write!(text, "-"),
        };
        text
    }
}

/// Connects onward, and lets the client connect if that works; otherwise the client gets the error.
pub fn relay_pending(pending: Pending) -> io::Result<()> {
    match pending.connect() {
        Ok(origin) => {
            let client = pending.complete(&origin).map_err(io::Error::other)?;
            copy_both_ways(client, origin)
        }
        Err(Error::System { source, .. }) => pending.refuse(&source).map_err(io::Error::other),
        Err(error) => Err(io::Error::other(error)),
    }
}
