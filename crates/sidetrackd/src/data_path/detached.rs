//! A data path without a kernel side: the daemon accepts policy and answers queries, but no
//! connection is classified.

use std::os::fd::BorrowedFd;

use sidetrack_abi::kernel::Listen;
use sidetrack_policy::{Code, Objects, Service, Uuid};

use super::{
    DataPath, Error, Flow, Generation, NewEvents, PendedDescriptors, PendedRefusal, PinnedPolicy,
    PolicySource, Reconciled, ResolvedConnection, ServiceStatus, Subject, Usage,
};

/// The data path of `sidetrackd --detached`, for trying out policies and clients where connections
/// must not be redirected, or cannot be.
#[derive(Debug, Default)]
pub struct Detached {
    generation: Generation,
    /// Number of services of the policy.
    services: usize,
}

impl DataPath for Detached {
    fn is_fresh(&self) -> bool {
        self.generation == 0
    }

    fn pinned(&mut self) -> Result<Option<PinnedPolicy>, Error> {
        Ok(None)
    }

    fn apply_boot_time(&mut self, _objects: &Objects) -> Result<(), Error> {
        Ok(())
    }

    fn reconcile(&mut self, objects: &Objects, source: PolicySource) -> Result<Reconciled, Error> {
        Ok(Reconciled {
            generation: self.commit(objects, source)?,
            notes: vec![
                "sidetrackd runs detached: no connection is classified by this policy".into(),
            ],
        })
    }

    fn commit(&mut self, objects: &Objects, _source: PolicySource) -> Result<Generation, Error> {
        self.generation += 1;
        self.services = objects.all::<Service>().len();
        Ok(self.generation)
    }

    fn register(&mut self, _service: Uuid, _pid: u32, _uid: u32) -> Result<Vec<u8>, Error> {
        Err(Error::CannotRegisterDetached)
    }

    fn pended_descriptors(&mut self, _listen: &Listen) -> Result<PendedDescriptors, PendedRefusal> {
        // No process can register, so nobody has credentials.
        Err(PendedRefusal::Credentials)
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        Ok(Usage::default())
    }

    fn services(&mut self) -> Result<Vec<ServiceStatus>, Error> {
        Ok(Vec::new())
    }

    fn flow_ids(&mut self) -> Result<Vec<u64>, Error> {
        Ok(Vec::new())
    }

    fn flow(&mut self, _id: u64) -> Result<Option<Flow>, Error> {
        Ok(None)
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events(&mut self) -> Result<NewEvents, Error> {
        Ok(NewEvents::default())
    }

    fn resolve(&mut self, subject: &Subject) -> Result<ResolvedConnection, Error> {
        match subject {
            Subject::Flow(id) => {
                let text = format!("there is no flow {id}");
                Err(sidetrack_policy::Error::new(Code::NotFound, text).into())
            }
            Subject::Connection(_) => Err(Error::CannotExplainDetached {
                services: self.services,
            }),
        }
    }

    fn refresh(&mut self, _objects: &Objects) -> Result<Option<Generation>, Error> {
        Ok(None)
    }
}
