//! Services that pend connects.

use sidetrack_engine::{ConnectMode, RegisteredService, ServiceSpec, open_ring};

use crate::Host;
use crate::proxy::sdk_service;

impl Host {
    /// Adds a service that pends connects. Returns it also as the SDK's type, with its descriptors.
    pub fn pended_service(&mut self, name: &str) -> (RegisteredService, sidetrack::Service) {
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
        let sdk = sdk_service(&service).with_pended(ring, sender4, sender6);
        (service, sdk.pended())
    }
}
