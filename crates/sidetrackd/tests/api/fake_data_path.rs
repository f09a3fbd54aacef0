//! A data path that records its calls, and changes nothing in the kernel.

use std::io::{Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use sidetrack_abi::kernel::Listen;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_policy::field_values::{EmptyHost, Program};
use sidetrack_policy::{Code, Filter, Lifetime, Listeners, Objects, Uuid};
use sidetrackd::data_path::{
    ConnectionEvent, DataPath, Error, Flow, Generation, NewEvents, PendedDescriptors,
    PendedRefusal, PinnedPolicy, PolicySource, Reconciled, ResolvedConnection, ServiceStatus,
    Subject, Usage,
};

/// The secret of all services that [`FakeDataPath::pended_descriptors`] knows.
pub(super) const SECRET: [u8; 16] = [7; 16];
/// The number of a service that pends connects.
pub(super) const PENDS: u32 = 1;
/// The same, on a host without IPv6.
pub(super) const PENDS_IPV4: u32 = 2;
/// The number of a service that accepts its connects.
pub(super) const ACCEPTS: u32 = 3;
/// The number of a service that pends connects, on a host where that is not available.
pub(super) const CANNOT_PEND: u32 = 4;

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
    /// The source of the last commit.
    pub(super) source: PolicySource,
    /// The keys of the filters of each call of `apply_boot_time`.
    pub(super) boots: Vec<Vec<u128>>,
    /// The code with which the next commit fails, set by a test.
    pub(super) refuse: Option<Code>,
    /// The result of the next call of `events`, set by a test.
    pub(super) events: NewEvents,
    /// The flows, set by a test.
    pub(super) flows: Vec<Flow>,
    /// Number of calls of `flow`.
    pub(super) flows_read: usize,
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

/// A descriptor of a file that contains a text.
fn file(contents: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
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

    fn pinned(&mut self) -> Result<Option<PinnedPolicy>, Error> {
        let filters = self.in_force().len();
        Ok((!self.is_fresh()).then(|| PinnedPolicy {
            generation: self.generation(),
            filters: filters.try_into().unwrap(),
            source: self.recorded().source,
        }))
    }

    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error> {
        let mut filters = objects.all::<Filter>();
        assert!(filters.all(|filter| filter.lifetime == Lifetime::BootTime));
        self.recorded().boots.push(keys(objects));
        Ok(())
    }

    fn reconcile(&mut self, objects: &Objects, source: PolicySource) -> Result<Reconciled, Error> {
        let agrees = !self.is_fresh() && self.in_force() == keys(objects);
        let mut notes = Vec::new();
        if !agrees {
            if !self.is_fresh() {
                notes.push("the pinned policy differed from the stored one; mended".to_owned());
            }
            let mut record = self.recorded();
            record.commits.push(keys(objects));
            record.source = source;
        }
        Ok(Reconciled {
            generation: self.generation(),
            notes,
        })
    }

    fn commit(&mut self, objects: &Objects, source: PolicySource) -> Result<Generation, Error> {
        let mut record = self.recorded();
        if let Some(code) = record.refuse.take() {
            return Err(sidetrack_policy::Error::new(code, "the test has set this error").into());
        }
        record.commits.push(keys(objects));
        record.source = source;
        Ok(record.commits.len() as u64)
    }

    fn register(&mut self, service: Uuid, pid: u32, _: u32) -> Result<Vec<u8>, Error> {
        let mut credentials = service.as_bytes().to_vec();
        credentials.extend(pid.to_ne_bytes());
        credentials.resize(40, 0);
        Ok(credentials)
    }

    fn pended_descriptors(&mut self, listen: &Listen) -> Result<PendedDescriptors, PendedRefusal> {
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        let unavailable = sidetrack_engine::Error::System {
            what: "make a raw socket",
            source: unsupported,
        };
        match listen.service {
            _ if listen.secret != SECRET => Err(PendedRefusal::Credentials),
            PENDS | PENDS_IPV4 => Ok(PendedDescriptors {
                ring: file("ring"),
                sender4: file("sender4"),
                sender6: (listen.service == PENDS).then(|| file("sender6")),
            }),
            ACCEPTS => Err(PendedRefusal::Accepted),
            CANNOT_PEND => Err(PendedRefusal::Unavailable(unavailable)),
            _ => Err(PendedRefusal::Credentials),
        }
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        Ok(Usage {
            counters: vec![("redirected", 7)],
            ..Usage::default()
        })
    }

    fn services(&mut self) -> Result<Vec<ServiceStatus>, Error> {
        Ok(vec![ServiceStatus {
            number: 1,
            key: Uuid::from_u128(1),
            listeners: Listeners {
                tcp4: 1,
                ..Listeners::default()
            },
        }])
    }

    fn flow_ids(&mut self) -> Result<Vec<u64>, Error> {
        Ok(self.recorded().flows.iter().map(|flow| flow.id).collect())
    }

    fn flow(&mut self, id: u64) -> Result<Option<Flow>, Error> {
        let mut recorded = self.recorded();
        recorded.flows_read += 1;
        let flow = recorded.flows.iter().find(|flow| flow.id == id);
        Ok(flow.cloned())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn events(&mut self) -> Result<NewEvents, Error> {
        Ok(std::mem::take(&mut self.recorded().events))
    }

    fn resolve(&mut self, subject: &Subject) -> Result<ResolvedConnection, Error> {
        match subject {
            Subject::Flow(id) => {
                let text = format!("there is no flow {id}");
                Err(sidetrack_policy::Error::new(Code::NotFound, text).into())
            }
            Subject::Connection(connection) => Ok(ResolvedConnection {
                field_values: connection.field_values(Program::default(), 1),
                host: Box::new(EmptyHost),
                passed: Vec::new(),
            }),
        }
    }

    fn refresh(&mut self, _objects: &Objects) -> Result<Option<Generation>, Error> {
        Ok(None)
    }
}

/// Returns an event about a connection of a program.
pub(super) fn connection_event(kind: EventKind, filter_id: u64, comm: &str) -> ConnectionEvent {
    ConnectionEvent {
        event: Event {
            kind,
            time: 0,
            filter_id,
            service: 0,
            pid: 1,
            uid: 0,
            comm: comm.into(),
            executable: String::new(),
            flow_id: 0,
            destination: ([192, 0, 2, 1], 443).into(),
            local: ([192, 0, 2, 2], 50_000).into(),
            protocol: 6,
            layer: None,
            generation: 1,
        },
        service: None,
        time: SystemTime::now(),
    }
}

/// Returns a flow of a program.
pub(super) fn flow(id: u64, closed: bool) -> Flow {
    Flow {
        id,
        connected: SystemTime::now(),
        remote: ([192, 0, 2, 1], 443).into(),
        local: ([192, 0, 2, 2], 50_000).into(),
        protocol: 6,
        pid: 1,
        uid: 0,
        comm: "curl".into(),
        app: "/usr/bin/curl".into(),
        cgroup_id: 1,
        chain: vec!["proxy 1".into()],
        filter_id: 1,
        closed,
        held: false,
    }
}
