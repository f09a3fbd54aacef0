//! Owners: the processes and cgroups of services that the engine adds to the kernel's maps.

use libbpf_rs::{MapCore, MapFlags, ProgramInput};
use sidetrack_abi::kernel;
use zerocopy::{FromBytes, IntoBytes};

use super::{Engine, update};
use crate::Error;
use crate::legacy::SocketHolder;

impl Engine {
    /// Adds a process of a legacy proxy, which cannot set LISTEN itself.
    pub(super) fn add_owner(&mut self, holder: &SocketHolder, service: u32) -> Result<(), Error> {
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
            "add a process to the map of owners",
        )?;
        self.change_owner_cgroup(holder.cgroup_id, |entry| entry.owners += 1)
    }

    /// The key of a process. The kernel identifies processes by their ids in the initial PID namespace; in a
    /// container, the engine knows only their ids in its own.
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
        let value = map
            .lookup(cgroup.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a service's cgroup"))?;
        let mut entry = value
            .and_then(|bytes| kernel::OwnerCgroup::read_from_bytes(&bytes).ok())
            .unwrap_or_default();
        change(&mut entry);
        update(
            map,
            &cgroup,
            entry.as_bytes(),
            "add a cgroup to the map of owners' cgroups",
        )
    }

    /// Removes the processes and cgroups of services that no longer exist. Otherwise they would count as those
    /// of the service that gets the number next, and fill the maps until then.
    ///
    /// A kernel program does it, since the kernel changes the same counts at the same time. A process that
    /// marks a listener at this moment is removed the next time.
    pub(super) fn collect_owners(&self) -> Result<(), Error> {
        let program = &self.skeleton.progs.sidetrack_collect_owners;
        program
            .test_run(ProgramInput::default())
            .map(drop)
            .map_err(Error::bpf("remove a service's processes"))
    }
}
