//! Whose process is it: what the engine tells the kernel of services' processes and cgroups.

use libbpf_rs::{MapCore, MapFlags, ProgramInput};
use sidetrack_abi::kernel;
use zerocopy::{FromBytes, IntoBytes};

use super::{Engine, update};
use crate::Error;
use crate::legacy::Holder;

impl Engine {
    /// A legacy proxy's process: it cannot say so itself.
    pub(super) fn name_owner(&mut self, holder: &Holder, service: u32) -> Result<(), Error> {
        let owner = kernel::Owner {
            started: holder.started,
            cgroup_id: holder.cgroup_id,
            service,
            listeners: 0,
        };
        let owners = &self.skeleton.maps.sidetrack_owners;
        update(
            owners,
            &self.owner_key(holder.pid),
            owner.as_bytes(),
            "name a service's process",
        )?;
        self.change_owner_cgroup(holder.cgroup_id, |known| known.owners += 1)
    }

    /// The kernel knows a process by its first number; the engine, in a container, by another one.
    fn owner_key(&self, pid: u32) -> u32 {
        let constants = self.skeleton.maps.rodata_data;
        match constants.is_some_and(|constants| constants.pid_level > 0) {
            true => pid | kernel::OWNER_NAMED,
            false => pid,
        }
    }

    pub(super) fn change_owner_cgroup(
        &mut self,
        cgroup: u64,
        change: impl FnOnce(&mut kernel::OwnerCgroup),
    ) -> Result<(), Error> {
        let map = &self.skeleton.maps.sidetrack_owner_cgroups;
        let known = map
            .lookup(cgroup.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a service's cgroup"))?;
        let mut known = known
            .and_then(|bytes| kernel::OwnerCgroup::read_from_bytes(&bytes).ok())
            .unwrap_or_default();
        change(&mut known);
        update(map, &cgroup, known.as_bytes(), "name a service's cgroup")
    }

    /// Processes and cgroups of services that are not there any more are nobody's: else they would be
    /// taken for the service that gets the number next, and fill the tables meanwhile.
    ///
    /// The kernel does it, as it counts there at the same time. Who marks a listener at this very
    /// moment is forgotten the next time.
    pub(super) fn collect_owners(&self) -> Result<(), Error> {
        let program = &self.skeleton.progs.sidetrack_collect_owners;
        program
            .test_run(ProgramInput::default())
            .map(drop)
            .map_err(Error::bpf("forget a service's processes"))
    }
}
