//! A data path without a kernel side: the daemon accepts policy and answers queries, but no
//! connection is classified.

use std::os::fd::BorrowedFd;

use sidetrack_api::v1;
use sidetrack_policy::{Code, Objects, Service, Uuid};

use super::{DataPath, Error, Generation, Reconciled};

/// The data path of `sidetrackd --detached`, for trying out policies and clients where connections
/// must not be redirected, or cannot be.
#[derive(Debug, Default)]
pub struct Detached {
    generation: Generation,
}

impl DataPath for Detached {
    fn is_fresh(&self) -> bool {
        self.generation == 0
    }

    fn apply_boot_time(&mut self, _objects: &Objects) -> Result<(), Error> {
        Ok(())
    }

    fn reconcile(&mut self, _objects: &Objects) -> Result<Reconciled, Error> {
        self.generation += 1;
        Ok(Reconciled {
            generation: self.generation,
            notes: vec![
                "sidetrackd runs detached: no connection is classified by this policy".into(),
            ],
        })
    }

    fn commit(&mut self, _objects: &Objects) -> Result<Generation, Error> {
        self.generation += 1;
        Ok(self.generation)
    }

    fn register(&mut self, _service: Uuid, _pid: u32) -> Result<Vec<u8>, Error> {
        Err(Error::DetachedFromSockets)
    }

    fn fill_state(&mut self, _state: &mut v1::State) -> Result<(), Error> {
        Ok(())
    }

    fn listening(&mut self) -> Result<Vec<Uuid>, Error> {
        Ok(Vec::new())
    }

    fn flows(&mut self) -> Result<Vec<v1::Flow>, Error> {
        Ok(Vec::new())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events(&mut self) -> Result<Vec<v1::Event>, Error> {
        Ok(Vec::new())
    }

    fn explain(
        &mut self,
        objects: &Objects,
        request: &v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error> {
        if let Some(v1::explain_request::Subject::FlowId(id)) = request.subject {
            let text = format!("there is no flow {id}");
            return Err(sidetrack_policy::Error::new(Code::NotFound, text).into());
        }
        let services = objects.all::<Service>().len();
        Err(Error::DetachedFromConnections { services })
    }

    fn refresh(&mut self, _objects: &Objects) -> Result<Option<Generation>, Error> {
        Ok(None)
    }
}
