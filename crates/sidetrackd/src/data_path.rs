//! The committer's interface to the kernel side.

mod detached;
mod error;
mod kernel;
mod report;
mod subject;

use std::os::fd::BorrowedFd;

use sidetrack_abi::kernel::Listen;
use sidetrack_policy::{Objects, Uuid};

pub use self::detached::Detached;
pub use self::error::Error;
pub use self::kernel::Kernel;
pub use self::report::{ConnectionEvent, Flow, NewEvents, ServiceStatus, Usage};
pub use self::subject::{Connection, ResolvedConnection, Subject};

pub use sidetrack_engine::{PendedDescriptors, PendedRefusal};
pub use sidetrack_policy::compile::PolicySource;

/// The kernel side. It stays in the committer's thread, so it need not be `Send`.
///
/// The [`Objects`] that its methods take have no boot-time filters, except for
/// [`Self::apply_boot_time`]. Flows and events have the ids of filters, for which the caller finds
/// the names.
///
/// Errors of all methods: [`Error::Policy`] if the policy is at fault, and others if the data path
/// is.
pub trait DataPath {
    /// Returns whether this process has loaded the kernel side, because nothing was pinned before.
    /// Then boot-time filters are in force until the store is loaded.
    fn is_fresh(&self) -> bool;

    /// Returns the policy that an earlier daemon has left in force; `None` if none is in force.
    fn pinned(&mut self) -> Result<Option<PinnedPolicy>, Error>;

    /// Puts boot-time filters in force. All filters among the objects are boot-time filters.
    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error>;

    /// Makes the kernel's policy the same as the store's, if it differs. The committer calls it
    /// once, at the start, with the objects that the store holds, unless it adopts the pinned policy.
    fn reconcile(&mut self, objects: &Objects, source: PolicySource) -> Result<Reconciled, Error>;

    /// Puts a policy in force for all connections that are made from now on. After an error, the
    /// previous policy is in force, unchanged.
    fn commit(&mut self, objects: &Objects, source: PolicySource) -> Result<Generation, Error>;

    /// Makes the credentials with which a process of a user may listen for a service that is in
    /// force. They are the value of the socket option LISTEN.
    ///
    /// Errors: also FWP_E_CALLOUT_NOT_FOUND, if the service is not in force; FWP_E_OUT_OF_BOUNDS, if
    /// there are too many cgroups with proxies for a user other than root.
    fn register(&mut self, service: Uuid, pid: u32, uid: u32) -> Result<Vec<u8>, Error>;

    /// Returns the descriptors with which the proxy of a service holds the connects of its clients. The
    /// service is the one that has these credentials.
    fn pended_descriptors(&mut self, listen: &Listen) -> Result<PendedDescriptors, PendedRefusal>;

    /// Returns how full the kernel side is, and where it is attached.
    fn usage(&mut self) -> Result<Usage, Error>;

    /// Returns the services in force.
    fn services(&mut self) -> Result<Vec<ServiceStatus>, Error>;

    /// Returns the ids of all flows, open and closed ones, in any order.
    fn flow_ids(&mut self) -> Result<Vec<u64>, Error>;

    /// Returns a flow, if it still exists.
    fn flow(&mut self, id: u64) -> Result<Option<Flow>, Error>;

    /// Returns the file descriptor that is readable while there are events, if there is one.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Returns all events since the last call.
    fn events(&mut self) -> Result<NewEvents, Error>;

    /// Returns the values by which the kernel classifies a connection, for an explanation.
    ///
    /// Errors: also FWP_E_NOT_FOUND, if its flow, executable or cgroup does not exist.
    fn resolve(&mut self, subject: &Subject) -> Result<ResolvedConnection, Error>;

    /// Checks whether the paths in the policy still lead to the same executables and cgroups. If
    /// not, puts the policy in force again, and returns its new generation.
    fn refresh(&mut self, objects: &Objects) -> Result<Option<Generation>, Error>;
}

/// The number that identifies a policy in force. It increases with each commit.
pub type Generation = u64;

/// A policy that an earlier daemon has left in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedPolicy {
    /// Its generation.
    pub generation: Generation,
    /// Number of its filters, without disabled ones.
    pub filters: u32,
    /// The commit that it comes from. Earlier versions of the daemon did not set it.
    pub source: PolicySource,
}

/// The result of [`DataPath::reconcile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// The generation in force now.
    pub generation: Generation,
    /// What differed and was corrected, one sentence each. Empty if store and kernel agreed.
    pub notes: Vec<String>,
}
