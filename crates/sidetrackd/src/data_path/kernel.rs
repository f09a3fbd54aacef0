//! The kernel side itself: objects carried out by the engine, pinned so that it outlives the daemon.

mod explain;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidetrack_api::v1;
use sidetrack_engine::{Cgroup, Engine, Paths, ServiceSpec};
use sidetrack_policy::field::FieldType;
use sidetrack_policy::field_values::{CgroupId, FileId, Host};
use sidetrack_policy::{Code, Filter, Objects, Service, Sublayer, Uuid, Value};

use super::{DataPath, Generation, Reconciled};
use crate::Error;

/// The engine, and what it was last told.
pub struct Kernel {
    engine: Engine,
    /// What the policy's paths stood for when it was put in force.
    resolved: BTreeMap<NamedPath, ResolvedPath>,
    /// Cgroups in which proxies registered, with the services they registered for.
    service_cgroups: HashMap<PathBuf, BTreeSet<Uuid>>,
}

/// A path that a condition names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NamedPath {
    App(String),
    Cgroup(String),
}

/// What it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResolvedPath {
    Nothing,
    File(FileId),
    Cgroup(CgroupId),
}

impl Kernel {
    /// Takes up what is pinned at `pins`, or loads it anew, for the programs of a cgroup.
    ///
    /// Errors: [`Error::DataPath`].
    pub fn open(cgroup: &Path, pins: &Path) -> Result<Self, Error> {
        let scope = Cgroup::at(cgroup).map_err(from_engine)?;
        let config = sidetrack_engine::Config {
            pins: Some(pins.to_owned()),
            ..sidetrack_engine::Config::default()
        };
        let engine = Engine::open(&scope, config)
            .and_then(|engine| engine.load())
            .and_then(|engine| engine.attach())
            .map_err(from_engine)?;
        // Who registered where before is not known: any service may have anywhere.
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
        let made = self.make_services(objects)?;
        let filters = objects.all::<Filter>();
        let committed = match self.engine.commit(filters, objects.all::<Sublayer>()) {
            Ok(committed) => committed,
            Err(error) => {
                for number in made {
                    self.engine.remove_service(number).map_err(from_engine)?;
                }
                return Err(from_engine(error));
            }
        };
        self.remove_services(objects)?;
        self.resolved = resolve_paths(objects)?;
        Ok(committed.generation.into())
    }

    /// Makes the services that are not there yet. Returns their numbers.
    fn make_services(&mut self, objects: &Objects) -> Result<Vec<u32>, Error> {
        let mut made = Vec::new();
        for service in objects.all::<Service>() {
            let spec = ServiceSpec::of_object(service);
            match self.number_of(service.identity.key) {
                Some(number) if self.has_settings(number, &spec) => {
                    self.engine.amend_service(number, &spec);
                }
                // Under another name, or with other records, its listeners must register anew.
                _ => made.push(
                    self.engine
                        .create_service(&spec)
                        .map_err(from_engine)?
                        .number,
                ),
            }
        }
        Ok(made)
    }

    /// Removes those that are no objects any more, or not such.
    fn remove_services(&mut self, objects: &Objects) -> Result<(), Error> {
        let wanted: HashMap<Uuid, ServiceSpec> = objects
            .all::<Service>()
            .map(|service| (service.identity.key, ServiceSpec::of_object(service)))
            .collect();
        let gone: Vec<(u32, Uuid)> = self
            .engine
            .services()
            .filter(|(_, known)| {
                wanted
                    .get(&known.key)
                    .is_none_or(|spec| (&spec.name, spec.records) != (&known.name, known.records))
            })
            .map(|(number, known)| (number, known.key))
            .collect();
        for (number, key) in gone {
            self.engine.remove_service(number).map_err(from_engine)?;
            self.service_cgroups.values_mut().for_each(|keys| {
                keys.remove(&key);
            });
        }
        Ok(())
    }

    /// Takes the engine off the cgroups in which no service can be any more. While flows are live it
    /// stays: their ends would be missed.
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
        if unused.is_empty() || self.engine.counters().map_err(from_engine)?.flows > 0 {
            return Ok(());
        }
        unused
            .iter()
            .for_each(|cgroup| self.engine.detach_home(cgroup));
        Ok(())
    }

    fn has_settings(&self, number: u32, spec: &ServiceSpec) -> bool {
        self.engine.services().any(|(known, is)| {
            known == number && is.name == spec.name && is.records == spec.records
        })
    }

    /// The latest, if it was made anew.
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

    fn apply_boot_time(&mut self, objects: &Objects) -> Result<(), Error> {
        self.put_in_force(objects).map(|_| ())
    }

    fn reconcile(&mut self, objects: &Objects) -> Result<Reconciled, Error> {
        self.make_services(objects)?;
        let generation = self.engine.generation();
        let filters = || objects.all::<Filter>();
        let agrees = generation > 0
            && self
                .engine
                .agrees(filters(), objects.all::<Sublayer>())
                .map_err(from_engine)?;
        if agrees {
            self.remove_services(objects)?;
            self.resolved = resolve_paths(objects)?;
            return Ok(Reconciled {
                generation: generation.into(),
                notes: Vec::new(),
            });
        }
        let replaced = self.engine.resumed() && generation > 0;
        let generation = self.put_in_force(objects)?;
        let note = "the pinned policy was not what the store holds; the store's is in force now";
        Ok(Reconciled {
            generation,
            notes: replaced.then(|| note.to_owned()).into_iter().collect(),
        })
    }

    fn commit(&mut self, objects: &Objects) -> Result<Generation, Error> {
        self.put_in_force(objects)
    }

    fn register(&mut self, service: Uuid, pid: u32) -> Result<Vec<u8>, Error> {
        let number = self.number_of(service).ok_or_else(|| {
            let text = format!("service {service} is not in force");
            sidetrack_policy::Error::new(Code::CalloutNotFound, text)
        })?;
        let cgroup = Cgroup::of_process(Some(pid.cast_signed())).map_err(from_engine)?;
        self.engine.attach_home(&cgroup).map_err(from_engine)?;
        let keys = self
            .service_cgroups
            .entry(cgroup.path().to_owned())
            .or_default();
        keys.insert(service);
        let service = self.engine.service(number).map_err(from_engine)?;
        let service = service.ok_or_else(|| Error::DataPath("the service has gone".into()))?;
        Ok(service.credentials().to_vec())
    }

    fn fill_state(&mut self, state: &mut v1::State) -> Result<(), Error> {
        report::state(&self.engine, state).map_err(from_engine)
    }

    fn listening(&mut self) -> Result<Vec<Uuid>, Error> {
        let services: Vec<_> = self
            .engine
            .services()
            .map(|(n, spec)| (n, spec.key))
            .collect();
        let mut keys = Vec::new();
        for (number, key) in services {
            let (v4, v6) = self.engine.listeners_of(number).map_err(from_engine)?;
            if v4 + v6 > 0 {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn flows(&mut self) -> Result<Vec<v1::Flow>, Error> {
        let flows = self.engine.flows().map_err(from_engine)?;
        Ok(flows
            .iter()
            .map(|flow| report::flow(&self.engine, flow))
            .collect())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.engine.as_fd())
    }

    fn events(&mut self) -> Result<Vec<v1::Event>, Error> {
        let events = self.engine.events(Duration::ZERO).map_err(from_engine)?;
        Ok(events
            .iter()
            .map(|event| report::event(&self.engine, event))
            .collect())
    }

    fn explain(
        &mut self,
        objects: &Objects,
        question: &v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Error> {
        explain::explanation(&self.engine, objects, question)
    }

    fn refresh(&mut self, objects: &Objects) -> Result<Option<Generation>, Error> {
        self.detach_unused_cgroups()?;
        if resolve_paths(objects)? == self.resolved {
            return Ok(None);
        }
        self.put_in_force(objects).map(Some)
    }
}

/// What the paths of a policy stand for now.
fn resolve_paths(objects: &Objects) -> Result<BTreeMap<NamedPath, ResolvedPath>, Error> {
    let paths = Paths::new().map_err(from_engine)?;
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

fn from_engine(error: sidetrack_engine::Error) -> Error {
    match error {
        sidetrack_engine::Error::Policy(refusal) => Error::Policy(refusal),
        full @ sidetrack_engine::Error::TooManyContexts => {
            sidetrack_policy::Error::new(Code::OutOfBounds, full.to_string()).into()
        }
        other => Error::DataPath(with_causes(&other)),
    }
}

/// An error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
