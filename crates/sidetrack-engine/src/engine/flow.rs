//! Reads the flows from the kernel, and how full its maps are.

use libbpf_rs::{MapCore, MapFlags, ProgramInput};
use sidetrack_abi::address;
use sidetrack_abi::kernel::{
    self, STAGE_CLOSED, STAGE_COMPLETED, STAGE_CONNECTING, STAGE_DATAGRAM, STAGE_ESTABLISHED,
    STAGE_PENDED, STAGE_RESERVED,
};
use sidetrack_policy::field_values::{FileId, Program};
use zerocopy::{FromBytes, IntoBytes};

use super::Engine;
use crate::Error;

/// Number of entries that one call reads.
const BATCH: u32 = 4096;

/// A flow in the kernel.
#[derive(Clone, Debug)]
pub struct FlowEntry {
    /// The flow as the option INFO returns it.
    pub flow: kernel::Flow,
    /// True if no socket refers to it any more; only its token is still valid.
    pub closed: bool,
    /// True if the client's SYN is held until the service completes the flow.
    pub held: bool,
    /// The program that opened the chain's first connection.
    pub program: Program,
    /// The path of its executable; empty if it is unknown.
    pub app: String,
}

/// How full a map of the kernel side is, or another table with a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// What its entries are, as users see it.
    pub name: &'static str,
    /// Number of entries.
    pub used: u64,
    /// Largest possible number of entries.
    pub capacity: u64,
}

impl Engine {
    /// All flows that are connecting or open, or that are closed and in their grace period.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn flows(&self) -> Result<Vec<FlowEntry>, Error> {
        let entries = self.flow_entries()?;
        let flows = entries.map(|entry| self.describe(&entry));
        let mut flows = flows.collect::<Result<Vec<_>, _>>()?;
        flows.sort_by_key(|flow| flow.flow.id);
        Ok(flows)
    }

    /// The ids of the flows that [`Self::flows`] returns, in any order.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn flow_ids(&self) -> Result<Vec<u64>, Error> {
        Ok(self.flow_entries()?.map(|entry| entry.id()).collect())
    }

    pub(super) fn flow_entries(&self) -> Result<impl Iterator<Item = kernel::FlowEntry>, Error> {
        self.sweep()?;
        let map = &self.skeleton.maps.sidetrack_flows;
        let entries = map
            .lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY)
            .map_err(Error::bpf("read the flows"))?;
        let entries =
            entries.filter_map(|(_, bytes)| kernel::FlowEntry::read_from_bytes(&bytes).ok());
        Ok(entries.filter(|entry| {
            matches!(
                entry.stage(),
                STAGE_CONNECTING
                    | STAGE_PENDED
                    | STAGE_COMPLETED
                    | STAGE_ESTABLISHED
                    | STAGE_CLOSED
                    | STAGE_DATAGRAM
            )
        }))
    }

    /// The flow of an id; `None` if it does not exist any more.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn flow(&self, id: u64) -> Result<Option<FlowEntry>, Error> {
        let flows_max = u64::from(self.skeleton.maps.sidetrack_flows.max_entries());
        let slot = (id % flows_max) as u32;
        let bytes = self
            .skeleton
            .maps
            .sidetrack_flows
            .lookup(slot.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a flow"))?;
        bytes
            .and_then(|bytes| kernel::FlowEntry::read_from_bytes(&bytes).ok())
            .filter(|entry| entry.id() == id && entry.stage() >= STAGE_CONNECTING)
            .map(|entry| self.describe(&entry))
            .transpose()
    }

    /// How full the maps are, and the services and fixed contexts of the engine.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn map_usage(&self) -> Result<Vec<MapUsage>, Error> {
        self.sweep()?;
        let maps = &self.skeleton.maps;
        let bss = maps.bss_data.as_deref();
        let live = bss.map_or(0, |data| data.flows_live.max(0) as u64);
        let by_four_tuple = bss.map_or(0, |data| data.flows_by_four_tuple.max(0) as u64);
        let datagrams = bss.map_or(0, |data| data.flows_datagram.max(0) as u64);
        let usage = |name, used, capacity: u32| MapUsage {
            name,
            used,
            capacity: capacity.into(),
        };
        Ok(vec![
            usage(
                "flows",
                live + datagrams,
                maps.sidetrack_flows.max_entries(),
            ),
            usage(
                "flows found by four-tuple",
                by_four_tuple,
                kernel::FOUR_TUPLES_MAX,
            ),
            usage(
                "services",
                self.services.len() as u64,
                kernel::SERVICES_MAX as u32 - 1,
            ),
            usage(
                "fixed contexts",
                self.contexts.len() as u64,
                kernel::CONTEXTS_MAX as u32,
            ),
            usage(
                "processes of services",
                maps.sidetrack_owners.keys().count() as u64,
                maps.sidetrack_owners.max_entries(),
            ),
            usage(
                "executables",
                maps.sidetrack_executables.keys().count() as u64,
                maps.sidetrack_executables.max_entries(),
            ),
        ])
    }

    /// Ends the UDP flows that are over. Otherwise they end only when their slots are needed.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn sweep(&self) -> Result<(), Error> {
        self.skeleton
            .progs
            .sidetrack_sweep
            .test_run(ProgramInput::default())
            .map_err(Error::bpf("end the UDP flows that are over"))?;
        Ok(())
    }

    /// Adds what the kernel keeps apart from a flow: its executable.
    fn describe(&self, entry: &kernel::FlowEntry) -> Result<FlowEntry, Error> {
        let executable = self
            .skeleton
            .maps
            .sidetrack_executables
            .lookup(entry.executable_id.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read an executable"))?;
        let executable =
            executable.and_then(|bytes| kernel::Executable::read_from_bytes(&bytes).ok());
        let levels = entry.program.cgroups.iter().copied();
        Ok(FlowEntry {
            flow: entry.flow,
            closed: entry.stage() == STAGE_CLOSED,
            held: entry.stage() == STAGE_PENDED,
            program: Program {
                app: FileId {
                    device: entry.program.device,
                    inode: entry.program.inode,
                },
                user: entry.program.uid,
                cgroups: levels.take_while(|&id| id != 0).collect(),
                elevated: entry.program.flags & kernel::PROGRAM_ELEVATED != 0,
            },
            app: executable.map_or_else(String::new, |executable| {
                String::from_utf8_lossy(address::text(&executable.path)).into_owned()
            }),
        })
    }
}

/// Whether a socket can still ask for the flow's context.
pub(super) fn has_sockets(entry: &kernel::FlowEntry) -> bool {
    matches!(
        entry.stage(),
        STAGE_CONNECTING
            | STAGE_PENDED
            | STAGE_COMPLETED
            | STAGE_ESTABLISHED
            | STAGE_RESERVED
            | STAGE_DATAGRAM
    )
}
