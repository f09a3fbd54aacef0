//! What the committer asks of the kernel side.

mod detached;
mod kernel;

use std::os::fd::BorrowedFd;

use sidetrack_api::v1;
use sidetrack_policy::{Objects, Uuid};

pub use self::detached::Detached;
pub use self::kernel::Kernel;
use crate::Error;

/// The kernel side. It lives in the committer's thread, so it need not be sent between threads.
///
/// What it is given are [`Objects`] without boot-time filters, but for [`Self::boot`]. It speaks the
/// contract's messages; names of filters in events and flows the committer fills in.
pub trait DataPath {
    /// Whether it was loaded now: nothing was pinned before. Then boot-time filters hold first.
    fn is_fresh(&self) -> bool;

    /// Puts boot-time filters in force: the objects' filters are all boot-time.
    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error>;

    /// At the start, with what the store holds: compares it with what the kernel has, and makes the
    /// kernel's the same if it differs. Notes say what was mended.
    fn reconcile(&mut self, objects: &Objects) -> Result<Reconciled, Error>;

    /// Puts a policy in force for each connection that comes after. After an error the policy before
    /// is in force, unchanged.
    fn commit(&mut self, objects: &Objects) -> Result<Generation, Error>;

    /// Makes credentials for a process that is to listen for a service in force: the value of LISTEN.
    fn register(&mut self, service: Uuid, pid: u32) -> Result<Vec<u8>, Error>;

    /// Fills in counters, tables, cgroups and policy_bytes.
    fn fill_state(&mut self, state: &mut v1::State) -> Result<(), Error>;

    /// Services in force that somebody listens for.
    fn listening(&mut self) -> Result<Vec<Uuid>, Error>;

    /// The flows, in any order; closed ones too.
    fn flows(&mut self) -> Result<Vec<v1::Flow>, Error>;

    /// Readable when there are events.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The events since the last call: as many as there are, a MISSED among them if some were lost.
    fn events(&mut self) -> Result<Vec<v1::Event>, Error>;

    /// Where a connection would go under these objects, those in force.
    fn explain(
        &mut self,
        objects: &Objects,
        question: &v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error>;

    /// Looks whether executables and cgroups still are what they were, and tells the kernel if not.
    /// Returns the generation, if that made a new one.
    fn refresh(&mut self, objects: &Objects) -> Result<Option<Generation>, Error>;
}

/// The number of a policy in force.
pub type Generation = u64;

/// How a restart found things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// In force now.
    pub generation: Generation,
    /// What was amiss and was mended: sentences. None: store and kernel agreed.
    pub notes: Vec<String>,
}
