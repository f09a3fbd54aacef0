//! The kernel side, controlled through the engine, and pinned so that it outlives the daemon.

mod connection;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidetrack_abi::kernel::Listen;
use sidetrack_engine::{Cgroup, Engine, Paths, ServiceSpec};
use sidetrack_policy::field::FieldType;
use sidetrack_policy::field_values::{CgroupId, FileId, Host};
use sidetrack_policy::{Code, Filter, Objects, Service, Sublayer, Uuid, Value};

use super::{
    DataPath, Error, Flow, Generation, NewEvents, PendedDescriptors, PendedRefusal, PinnedPolicy,
    PolicySource, Reconciled, ResolvedConnection, ServiceStatus, Subject, Usage,
};

/// The engine, with what this daemon must remember of the policy in force.
pub struct Kernel {
    engine: Engine,
    /// What each path of the policy led to when the policy was put in force.
    resolved: BTreeMap<NamedPath, ResolvedPath>,
    /// The services for which proxies have registered, by the cgroup that the proxies were in.
    service_cgroups: HashMap<PathBuf, BTreeSet<Uuid>>,
}

/// How many cgroups with proxies there can be before users other than root can add no more. Each takes
/// descriptors of the daemon.
const CGROUPS_OF_USERS_MAX: usize = 512;

/// A path that a condition of the policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NamedPath {
    /// The path of an executable.
    App(String),
    /// The path of a cgroup.
    Cgroup(String),
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResolvedPath {
    Nothing,
    File(FileId),
    Cgroup(CgroupId),
}

impl Kernel {
    /// Opens the kernel side for the programs of a cgroup. Resumes what is pinned at `pins`; if
    /// nothing is, loads it.
    ///
    /// Errors: [`Error::Engine`].
    pub fn open(cgroup: &Path, pins: &Path) -> Result<Self, Error> {
        let scope = Cgroup::at(cgroup)?;
        let config = sidetrack_engine::Config {
            pins: Some(pins.to_owned()),
            ..sidetrack_engine::Config::default()
        };
        let engine = Engine::open(&scope, config)
            .and_then(|engine| engine.load())
            .and_then(|engine| engine.attach())?;
        // It is not known for which services proxies of these cgroups registered before, so all services
        // count as registered in each cgroup.
        let keys: BTreeSet<Uuid> = engine.services().map(|(_, spec)| spec.key).collect();
        let cgroups = engine.homes();
        let service_cgroups = cgroups
            .map(|cgroup| (cgroup.to_owned(), keys.clone()))
            .collect();
        Ok(Self {
            engine,
            resolved: BTreeMap::new(),
            service_cgroups,
        })
    }

    fn put_in_force(&mut self, objects: &Objects) -> Result<Generation, Error> {
        let mut created = Vec::new();
        let committed = self.create_services(objects, &mut created).and_then(|()| {
            let filters = objects.all::<Filter>();
            Ok(self.engine.commit(filters, objects.all::<Sublayer>())?)
        });
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                self.engine.retire_services(BTreeSet::new());
                for number in created {
                    self.engine.remove_service(number)?;
                }
                return Err(error);
            }
        };
        self.remove_retired_services()?;
        self.resolved = resolve_paths(objects)?;
        Ok(committed.generation.into())
    }

    /// Creates the services that do not exist yet in the engine, and adds their numbers to `created`. The
    /// services that have no object any more are retired, and those that differ from their object in name or
    /// settings for records, whose listeners must register again.
    fn create_services(&mut self, objects: &Objects, created: &mut Vec<u32>) -> Result<(), Error> {
        let mut retired: BTreeSet<u32> = self.engine.services().map(|(number, _)| number).collect();
        for service in objects.all::<Service>() {
            let spec = ServiceSpec::of_object(service);
            match self.number_with_settings(&spec) {
                Some(number) => {
                    self.engine.amend_service(number, &spec)?;
                    retired.remove(&number);
                }
                None => created.push(self.engine.create_service(&spec)?.number),
            }
        }
        self.engine.retire_services(retired);
        Ok(())
    }

    /// Removes the services that the policy in force does not use any more.
    fn remove_retired_services(&mut self) -> Result<(), Error> {
        let retired = self.engine.retired_services();
        for (number, key) in retired {
            self.engine.remove_service(number)?;
            self.service_cgroups.values_mut().for_each(|keys| {
                keys.remove(&key);
            });
        }
        Ok(())
    }

    /// Detaches the engine from cgroups in which no service can listen any more. Does nothing while
    /// there are flows, because their ends would be missed.
    fn detach_unused_cgroups(&mut self) -> Result<(), Error> {
        self.service_cgroups
            .retain(|path, keys| !keys.is_empty() && path.exists());
        let is_unused = |cgroup: &&Path| {
            !self
                .service_cgroups
                .keys()
                .any(|path| path.starts_with(cgroup))
        };
        let unused: Vec<PathBuf> = self
            .engine
            .homes()
            .filter(is_unused)
            .map(Path::to_owned)
            .collect();
        if unused.is_empty() || self.engine.counters()?.flows > 0 {
            return Ok(());
        }
        unused
            .iter()
            .for_each(|cgroup| self.engine.detach_home(cgroup));
        Ok(())
    }

    /// Returns the number of the service that has the key, the name and the settings for records of
    /// `spec`.
    fn number_with_settings(&self, spec: &ServiceSpec) -> Option<u32> {
        let mut services = self.engine.services();
        let found =
            services.find(|(_, known)| known.key == spec.key && known.is_same_to_kernel(spec));
        found.map(|(number, _)| number)
    }

    /// Returns the number of the service with this key.
    fn number_of(&self, key: Uuid) -> Option<u32> {
        let mut services = self.engine.services();
        services
            .find(|(_, spec)| spec.key == key)
            .map(|(number, _)| number)
    }
}

impl DataPath for Kernel {
    fn is_fresh(&self) -> bool {
        !self.engine.resumed()
    }

    fn pinned(&mut self) -> Result<Option<PinnedPolicy>, Error> {
        let policy = self.engine.policy_in_force()?;
        Ok(policy.map(|policy| PinnedPolicy {
            generation: policy.generation.into(),
            filters: policy.filters,
            source: policy.source,
        }))
    }

    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error> {
        self.put_in_force(objects).map(|_| ())
    }

    fn reconcile(&mut self, objects: &Objects, source: PolicySource) -> Result<Reconciled, Error> {
        self.engine.set_source(source);
        self.create_services(objects, &mut Vec::new())?;
        let generation = self.engine.generation();
        let filters = || objects.all::<Filter>();
        let agrees = generation > 0 && self.engine.agrees(filters(), objects.all::<Sublayer>())?;
        // Of filters, the kernel must know the source too, or the next start does not put up with them.
        let in_force = self.engine.policy_in_force()?;
        let is_known =
            in_force.is_some_and(|policy| policy.filters == 0 || policy.source == source);
        if agrees && is_known {
            self.remove_retired_services()?;
            self.resolved = resolve_paths(objects)?;
            return Ok(Reconciled {
                generation: generation.into(),
                notes: Vec::new(),
            });
        }
        let replaced = self.engine.resumed() && generation > 0 && !agrees;
        let generation = self.put_in_force(objects)?;
        let note =
            "the pinned policy differed from the stored one; the stored policy is in force now";
        Ok(Reconciled {
            generation,
            notes: replaced.then(|| note.to_owned()).into_iter().collect(),
        })
    }

    fn commit(&mut self, objects: &Objects, source: PolicySource) -> Result<Generation, Error> {
        self.engine.set_source(source);
        self.put_in_force(objects)
    }

    fn register(&mut self, service: Uuid, pid: u32, uid: u32) -> Result<Vec<u8>, Error> {
        let number = self.number_of(service).ok_or_else(|| {
            let text = format!("service {service} is not in force");
            sidetrack_policy::Error::new(Code::CalloutNotFound, text)
        })?;
        let cgroup = Cgroup::of_process(Some(pid.cast_signed()))?;
        let is_new = !self.engine.is_in_home(&cgroup);
        if uid != 0 && is_new && self.engine.homes().count() >= CGROUPS_OF_USERS_MAX {
            let text = format!("proxies run in {CGROUPS_OF_USERS_MAX} cgroups already");
            return Err(sidetrack_policy::Error::new(Code::OutOfBounds, text).into());
        }
        let connect = self.engine.connect_mode(number);
        self.engine.attach_home(&cgroup, connect)?;
        let keys = self
            .service_cgroups
            .entry(cgroup.path().to_owned())
            .or_default();
        keys.insert(service);
        let service = self.engine.service(number)?;
        Ok(service.ok_or(Error::ServiceGone)?.credentials().to_vec())
    }

    fn pended_descriptors(&mut self, listen: &Listen) -> Result<PendedDescriptors, PendedRefusal> {
        self.engine.pended_descriptors(listen)
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        Ok(report::usage(&self.engine)?)
    }

    fn services(&mut self) -> Result<Vec<ServiceStatus>, Error> {
        Ok(report::services(&self.engine)?)
    }

    fn flow_ids(&mut self) -> Result<Vec<u64>, Error> {
        Ok(self.engine.flow_ids()?)
    }

    fn flow(&mut self, id: u64) -> Result<Option<Flow>, Error> {
        let flow = self.engine.flow(id)?;
        Ok(flow.map(|flow| report::flow(&self.engine, &flow)))
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.engine.as_fd())
    }

    fn events(&mut self) -> Result<NewEvents, Error> {
        let events = self.engine.events(Duration::ZERO)?.into_iter();
        let events = events.map(|event| report::event(&self.engine, event));
        Ok(NewEvents {
            events: events.collect(),
            lost: self.engine.events_lost()?,
        })
    }

    fn resolve(&mut self, subject: &Subject) -> Result<ResolvedConnection, Error> {
        connection::resolve(&self.engine, subject)
    }

    fn refresh(&mut self, objects: &Objects) -> Result<Option<Generation>, Error> {
        self.detach_unused_cgroups()?;
        if resolve_paths(objects)? == self.resolved {
            return Ok(None);
        }
        self.put_in_force(objects).map(Some)
    }
}

/// Looks up what the paths of a policy lead to now.
fn resolve_paths(objects: &Objects) -> Result<BTreeMap<NamedPath, ResolvedPath>, Error> {
    let paths = Paths::new()?;
    let named: BTreeSet<NamedPath> = objects
        .all::<Filter>()
        .flat_map(|filter| &filter.conditions)
        .filter_map(
            |condition| match (&condition.value, condition.field.kind()) {
                (Value::Path(path), FieldType::App) => Some(NamedPath::App(path.clone())),
                (Value::Path(path), _) => Some(NamedPath::Cgroup(path.clone())),
                _ => None,
            },
        )
        .collect();
    let find = |path: &NamedPath| match path {
        NamedPath::App(path) => paths.file(path).map(ResolvedPath::File),
        NamedPath::Cgroup(path) => paths.cgroup(path).map(ResolvedPath::Cgroup),
    };
    Ok(named
        .into_iter()
        .map(|path| {
            let found = find(&path).unwrap_or(ResolvedPath::Nothing);
            (path, found)
        })
        .collect())
}
