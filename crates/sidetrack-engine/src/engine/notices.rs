//! The ring buffers from which the proxies of services that pend connects read notices.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use sidetrack_abi::kernel;
use zerocopy::IntoBytes;

use super::{Engine, update};
use crate::Error;

/// Opens a ring buffer by its id, for a proxy, which needs no privilege to read it.
///
/// Errors: [`Error::Bpf`]; to open it needs CAP_SYS_ADMIN.
pub fn open_ring(id: u32) -> Result<OwnedFd, Error> {
    let ring =
        MapHandle::from_map_id(id).map_err(Error::bpf("open the ring buffer of a service"))?;
    let descriptor = ring.as_fd().try_clone_to_owned();
    descriptor.map_err(Error::system("duplicate a descriptor"))
}

impl Engine {
    /// The kernel's id of the ring buffer of a service; `None` if the service does not pend connects.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn ring(&self, service: u32) -> Result<Option<u32>, Error> {
        let id = self
            .skeleton
            .maps
            .sidetrack_notices
            .lookup(service.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("find the ring buffer of a service"))?;
        let id = id.and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?)));
        Ok(id.filter(|&id| id != 0))
    }

    /// Makes the ring buffer of a service that pends connects.
    pub(super) fn make_ring(&self, service: u32) -> Result<(), Error> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let ring = MapHandle::create(
            MapType::RingBuf,
            Some("sidetrack_ring"),
            0,
            0,
            kernel::NOTICES_SIZE,
            &options,
        )
        .map_err(Error::bpf("make the ring buffer of a service"))?;
        update(
            &self.skeleton.maps.sidetrack_notices,
            &service,
            ring.as_fd().as_raw_fd().as_bytes(),
            "add the ring buffer of a service",
        )
    }

    /// Removes the ring buffer of a service, if it has one. A proxy that has it open can still read it.
    pub(super) fn remove_ring(&self, service: u32) {
        let rings = &self.skeleton.maps.sidetrack_notices;
        let _ = rings.delete(service.as_bytes()); // fails only if there is none
    }
}
