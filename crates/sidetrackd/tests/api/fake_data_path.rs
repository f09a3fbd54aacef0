//! A data path that records its calls, and changes nothing in the kernel.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use sidetrack_api::v1;
use sidetrack_policy::{Code, Filter, Lifetime, Objects, Uuid};
use sidetrackd::data_path::{DataPath, Error, Generation, Reconciled};

/// The data path. What it has recorded outlives the daemon, as pins do.
#[derive(Clone, Default)]
pub(super) struct FakeDataPath {
    recorded: Arc<Mutex<Recorded>>,
}

/// The calls that the data path has recorded, and the results that a test has set for later calls.
#[derive(Default)]
pub(super) struct Recorded {
    /// The keys of the filters of each commit, in the order of the commits.
    pub(super) commits: Vec<Vec<u128>>,
    /// The keys of the filters of each call of `apply_boot_time`.
    pub(super) boots: Vec<Vec<u128>>,
    /// The code with which the next commit fails, set by a test.
    pub(super) refuse: Option<Code>,
    /// Events for the next call of `events`, set by a test.
    pub(super) events: Vec<v1::Event>,
}

impl FakeDataPath {
    /// Returns the record, locked.
    pub(super) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap()
    }

    /// Returns the keys of the filters in force.
    pub(super) fn in_force(&self) -> Vec<u128> {
        self.recorded().commits.last().cloned().unwrap_or_default()
    }

    /// Returns the generation in force: the number of commits.
    pub(super) fn generation(&self) -> u64 {
        self.recorded().commits.len() as u64
    }
}

fn keys(objects: &Objects) -> Vec<u128> {
    let filters = objects.all::<Filter>();
    filters
        .map(|filter| filter.identity.key.as_u128())
        .collect()
}

impl DataPath for FakeDataPath {
    fn is_fresh(&self) -> bool {
        self.generation() == 0
    }

    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error> {
        let mut filters = objects.all::<Filter>();
        assert!(filters.all(|filter| filter.lifetime == Lifetime::BootTime));
        self.recorded().boots.push(keys(objects));
        Ok(())
    }

    fn reconcile(&mut self, objects: &Objects) -> Result<Reconciled, Error> {
        let agrees = !self.is_fresh() && self.in_force() == keys(objects);
        let mut notes = Vec::new();
        if !agrees {
            if !self.is_fresh() {
                notes.push("the pinned policy differed from the stored one; mended".to_owned());
            }
            self.recorded().commits.push(keys(objects));
        }
        Ok(Reconciled {
            generation: self.generation(),
            notes,
        })
    }

    fn commit(&mut self, objects: &Objects) -> Result<Generation, Error> {
        let mut record = self.recorded();
        if let Some(code) = record.refuse.take() {
            return Err(sidetrack_policy::Error::new(code, "the test has set this error").into());
        }
        record.commits.push(keys(objects));
        Ok(record.commits.len() as u64)
    }

    fn register(&mut self, service: Uuid, pid: u32) -> Result<Vec<u8>, Error> {
        let mut credentials = service.as_bytes().to_vec();
        credentials.extend(pid.to_ne_bytes());
        credentials.resize(40, 0);
        Ok(credentials)
    }

    fn fill_state(&mut self, state: &mut v1::State) -> Result<(), Error> {
        state.counters.push(v1::Counter {
            name: "redirected".into(),
            value: 7,
        });
        Ok(())
    }

    fn listening(&mut self) -> Result<Vec<Uuid>, Error> {
        Ok(vec![Uuid::from_u128(1)])
    }

    fn flows(&mut self) -> Result<Vec<v1::Flow>, Error> {
        let flow = |id, closed| v1::Flow {
            id,
            closed,
            filter_id: 1,
            ..v1::Flow::default()
        };
        Ok(vec![flow(2, true), flow(1, false)])
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events(&mut self) -> Result<Vec<v1::Event>, Error> {
        Ok(std::mem::take(&mut self.recorded().events))
    }

    fn explain(
        &mut self,
        _objects: &Objects,
        request: &v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error> {
        match request.subject {
            Some(v1::explain_request::Subject::FlowId(id)) => {
                let text = format!("there is no flow {id}");
                Err(sidetrack_policy::Error::new(Code::NotFound, text).into())
            }
            _ => Ok(v1::ExplainResponse {
                verdict: v1::Verdict::None.into(),
                ..v1::ExplainResponse::default()
            }),
        }
    }

    fn refresh(&mut self, _objects: &Objects) -> Result<Option<Generation>, Error> {
        Ok(None)
    }
}
