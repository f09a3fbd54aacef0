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

use super::{DataPath, Generation, TakenUp};
use crate::Error;

/// The engine, and what it was last told.
pub struct Kernel {
    engine: Engine,
    /// What the policy's paths stood for when it was put in force.
    places: BTreeMap<Place, Found>,
    /// Cgroups in which proxies registered, with the services they registered for.
    homes: HashMap<PathBuf, BTreeSet<Uuid>>,
}

/// A path that a condition names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    App(String),
    Cgroup(String),
}

/// What it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    File(FileId),
    Cgroup(CgroupId),
}

impl Kernel {
    /// Takes up what is pinned at `pins`, or loads it anew, for the programs of a cgroup.
    ///
    /// Errors: [`Error::DataPath`].
    pub fn open(cgroup: &Path, pins: &Path) -> Result<Self, Error> {
        let scope = Cgroup::at(cgroup).map_err(failed)?;
        let config = sidetrack_engine::Config {
            pins: Some(pins.to_owned()),
            ..sidetrack_engine::Config::default()
        };
        let engine = Engine::open(&scope, config)
            .and_then(|engine| engine.load())
            .and_then(|engine| engine.attach())
            .map_err(failed)?;
        // Who registered where before is not known: any service may have anywhere.
        let keys: BTreeSet<Uuid> = engine.services().map(|(_, spec)| spec.key).collect();
        let homes = engine.homes();
        let homes = homes.map(|home| (home.to_owned(), keys.clone())).collect();
        Ok(Self {
            engine,
            places: BTreeMap::new(),
            homes,
        })
    }

    fn put(&mut self, objects: &Objects) -> Result<Generation, Error> {
        let made = self.make_services(objects)?;
        let filters = objects.all::<Filter>();
        let committed = match self.engine.commit(filters, objects.all::<Sublayer>()) {
            Ok(committed) => committed,
            Err(error) => {
                for number in made {
                    self.engine.remove_service(number).map_err(failed)?;
                }
                return Err(failed(error));
            }
        };
        self.remove_services(objects)?;
        self.places = look_up(objects)?;
        Ok(committed.generation.into())
    }

    /// Makes the services that are not there yet. Returns their numbers.
    fn make_services(&mut self, objects: &Objects) -> Result<Vec<u32>, Error> {
        let mut made = Vec::new();
        for service in objects.all::<Service>() {
            let spec = ServiceSpec::of_object(service);
            match self.number_of(service.identity.key) {
                Some(number) if self.is_same(number, &spec) => {
                    self.engine.amend_service(number, &spec);
                }
                // Under another name, or with other records, its listeners must register anew.
                _ => made.push(self.engine.create_service(&spec).map_err(failed)?.number),
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
            self.engine.remove_service(number).map_err(failed)?;
            self.homes.values_mut().for_each(|keys| {
                keys.remove(&key);
            });
        }
        Ok(())
    }

    /// Takes the engine off the cgroups in which no service can be any more. While flows are live it
    /// stays: their ends would be missed.
    fn leave_homes(&mut self) -> Result<(), Error> {
        self.homes
            .retain(|path, keys| !keys.is_empty() && path.exists());
        let is_left = |home: &&Path| !self.homes.keys().any(|path| path.starts_with(home));
        let left: Vec<PathBuf> = self
            .engine
            .homes()
            .filter(is_left)
            .map(Path::to_owned)
            .collect();
        if left.is_empty() || self.engine.counters().map_err(failed)?.flows > 0 {
            return Ok(());
        }
        left.iter().for_each(|home| self.engine.detach_home(home));
        Ok(())
    }

    fn is_same(&self, number: u32, spec: &ServiceSpec) -> bool {
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

    fn boot(&mut self, objects: &Objects) -> Result<(), Error> {
        self.put(objects).map(|_| ())
    }

    fn take_up(&mut self, objects: &Objects) -> Result<TakenUp, Error> {
        self.make_services(objects)?;
        let generation = self.engine.generation();
        let filters = || objects.all::<Filter>();
        let agrees = generation > 0
            && self
                .engine
                .agrees(filters(), objects.all::<Sublayer>())
                .map_err(failed)?;
        if agrees {
            self.remove_services(objects)?;
            self.places = look_up(objects)?;
            return Ok(TakenUp {
                generation: generation.into(),
                notes: Vec::new(),
            });
        }
        let found = self.engine.resumed() && generation > 0;
        let generation = self.put(objects)?;
        let note = "the pinned policy was not what the store holds; the store's is in force now";
        Ok(TakenUp {
            generation,
            notes: found.then(|| note.to_owned()).into_iter().collect(),
        })
    }

    fn commit(&mut self, objects: &Objects) -> Result<Generation, Error> {
        self.put(objects)
    }

    fn register(&mut self, service: Uuid, pid: u32) -> Result<Vec<u8>, Error> {
        let number = self.number_of(service).ok_or_else(|| {
            let text = format!("service {service} is not in force");
            sidetrack_policy::Error::new(Code::CalloutNotFound, text)
        })?;
        let home = Cgroup::of_process(Some(pid.cast_signed())).map_err(failed)?;
        self.engine.attach_home(&home).map_err(failed)?;
        let keys = self.homes.entry(home.path().to_owned()).or_default();
        keys.insert(service);
        let service = self.engine.service(number).map_err(failed)?;
        let service = service.ok_or_else(|| Error::DataPath("the service has gone".into()))?;
        Ok(service.credentials().to_vec())
    }

    fn fill_state(&mut self, state: &mut v1::State) -> Result<(), Error> {
        report::state(&self.engine, state).map_err(failed)
    }

    fn listening(&mut self) -> Result<Vec<Uuid>, Error> {
        let services: Vec<_> = self
            .engine
            .services()
            .map(|(n, spec)| (n, spec.key))
            .collect();
        let mut keys = Vec::new();
        for (number, key) in services {
            let (v4, v6) = self.engine.listeners_of(number).map_err(failed)?;
            if v4 + v6 > 0 {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn flows(&mut self) -> Result<Vec<v1::Flow>, Error> {
        let flows = self.engine.flows().map_err(failed)?;
        Ok(flows
            .iter()
            .map(|flow| report::flow(&self.engine, flow))
            .collect())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.engine.as_fd())
    }

    fn events(&mut self) -> Result<Vec<v1::Event>, Error> {
        let events = self.engine.events(Duration::ZERO).map_err(failed)?;
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
        explain::answer(&self.engine, objects, question)
    }

    fn refresh(&mut self, objects: &Objects) -> Result<Option<Generation>, Error> {
        self.leave_homes()?;
        if look_up(objects)? == self.places {
            return Ok(None);
        }
        self.put(objects).map(Some)
    }
}

/// What the paths of a policy stand for now.
fn look_up(objects: &Objects) -> Result<BTreeMap<Place, Found>, Error> {
    let paths = Paths::new().map_err(failed)?;
    let named: BTreeSet<Place> = objects
        .all::<Filter>()
        .flat_map(|filter| &filter.conditions)
        .filter_map(
            |condition| match (&condition.value, condition.field.kind()) {
                (Value::Path(path), FieldType::App) => Some(Place::App(path.clone())),
                (Value::Path(path), _) => Some(Place::Cgroup(path.clone())),
                _ => None,
            },
        )
        .collect();
    let find = |place: &Place| match place {
        Place::App(path) => paths.file(path).map(Found::File),
        Place::Cgroup(path) => paths.cgroup(path).map(Found::Cgroup),
    };
    Ok(named
        .into_iter()
        .map(|place| {
            let found = find(&place).unwrap_or(Found::Nothing);
            (place, found)
        })
        .collect())
}

fn failed(error: sidetrack_engine::Error) -> Error {
    match error {
        sidetrack_engine::Error::Policy(refusal) => Error::Policy(refusal),
        full @ sidetrack_engine::Error::TooManyContexts => {
            sidetrack_policy::Error::new(Code::OutOfBounds, full.to_string()).into()
        }
        other => Error::DataPath(sentence(&other)),
    }
}

/// An error with its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
