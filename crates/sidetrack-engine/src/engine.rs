//! The engine: programs loaded, attached to cgroups, and told of services and filters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapType, OpenObject, ProgramMut, RingBuffer};
use sidetrack_abi::kernel::{self, Listen};
use zerocopy::{FromBytes, IntoBytes};

use crate::counter::Counters;
use crate::event::Event;
use crate::filter::lower;
use crate::legacy::Holder;
use crate::skeleton::{OpenSidetrackSkel, SidetrackSkel, SidetrackSkelBuilder};
use crate::{Cgroup, Error, Filter, Service, ServiceSpec, host, legacy, sys};

/// What can be set before load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flows kept at once, closed ones in their grace included; 200 bytes each, taken at load.
    pub flows_max: u32,
    /// How long a token outlives its flow's last socket.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows_max: kernel::FLOWS_MAX,
            grace: Duration::from_nanos(kernel::GRACE_NS),
        }
    }
}

/// Opened, not yet in the kernel.
pub struct OpenEngine<'scope> {
    skeleton: OpenSidetrackSkel<'static>,
    scope: &'scope Cgroup,
    id: u64,
}

/// In the kernel, not yet attached.
pub struct LoadedEngine<'scope> {
    engine: Engine,
    scope: &'scope Cgroup,
}

/// At work. When dropped, or when its process ends, all of it goes: links, programs, maps.
pub struct Engine {
    // Fields are dropped in this order: nothing runs any more when the maps go.
    client_side: Vec<Attachment>,
    service_side: Vec<Attachment>,
    ring: RingBuffer<'static>,
    skeleton: SidetrackSkel<'static>,
    events: Rc<RefCell<Vec<Event>>>,
    services: HashMap<u32, ServiceSpec>,
    contexts: HashMap<Vec<u8>, u32>,
    generation: u32,
    id: u64,
}

/// A cgroup's links.
struct Attachment {
    path: PathBuf,
    _links: Vec<Link>,
}

impl Engine {
    /// Prepares an engine that judges the programs of `scope` and of all cgroups below.
    ///
    /// Errors: [`Error::Privilege`], [`Error::NoBtf`], and [`Error::Kernel`].
    pub fn open(scope: &Cgroup, config: Config) -> Result<OpenEngine<'_>, Error> {
        host::require()?;
        libbpf_rs::set_print(None);
        // The library wants a place for its object that outlives the skeleton. It is a pointer's size.
        let place: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut skeleton = SidetrackSkelBuilder::default()
            .open(place)
            .map_err(Error::Kernel)?;
        let id = u64::from_ne_bytes(random()?);
        let flows_max = config.flows_max.max(1);
        skeleton
            .maps
            .sidetrack_flows
            .set_max_entries(flows_max)
            .map_err(Error::Kernel)?;
        let constants = skeleton
            .maps
            .rodata_data
            .as_deref_mut()
            .expect("the object has constants");
        constants.engine_id = id;
        constants.token_key = [random()?, random()?].map(u64::from_ne_bytes);
        constants.scope_id = scope.id();
        constants.scope_level = scope.level();
        constants.flows_max = flows_max;
        constants.grace_ns = config.grace.as_nanos().try_into().unwrap_or(u64::MAX);
        Ok(OpenEngine {
            skeleton,
            scope,
            id,
        })
    }
}

impl<'scope> OpenEngine<'scope> {
    /// Brings programs and maps into the kernel. Errors: [`Error::Kernel`].
    pub fn load(self) -> Result<LoadedEngine<'scope>, Error> {
        let skeleton = self.skeleton.load().map_err(Error::Kernel)?;
        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&events);
        let mut builder = libbpf_rs::RingBufferBuilder::new();
        builder
            .add(&skeleton.maps.sidetrack_events, move |bytes| {
                sink.borrow_mut().extend(Event::parse(bytes));
                0
            })
            .map_err(Error::bpf("open the event ring"))?;
        let ring = builder.build().map_err(Error::bpf("open the event ring"))?;
        Ok(LoadedEngine {
            engine: Engine {
                client_side: Vec::new(),
                service_side: Vec::new(),
                ring,
                skeleton,
                events,
                services: HashMap::new(),
                contexts: HashMap::new(),
                generation: 0,
                id: self.id,
            },
            scope: self.scope,
        })
    }
}

impl LoadedEngine<'_> {
    /// Attaches the client side to the scope. Nothing is redirected before a policy is set.
    ///
    /// Errors: [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn attach(mut self) -> Result<Engine, Error> {
        self.engine.attach_client_side(self.scope)?;
        Ok(self.engine)
    }
}

impl Engine {
    /// Adds a service whose proxy makes its listener in `home`, or below it.
    ///
    /// The service side is attached there. Errors: [`Error::ServiceName`],
    /// [`Error::TooManyServices`], [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn add_service(&mut self, spec: &ServiceSpec, home: &Cgroup) -> Result<Service, Error> {
        let number = (1..kernel::SERVICES_MAX as u32)
            .find(|number| !self.services.contains_key(number))
            .ok_or(Error::TooManyServices)?;
        let secret = random()?;
        let value = spec.lower(secret)?;
        self.attach_client_side(home)?;
        self.attach_service_side(home)?;
        update(
            &self.skeleton.maps.sidetrack_services,
            &number,
            value.as_bytes(),
            "add a service",
        )?;
        if spec.owns_cgroup {
            self.change_owner_cgroup(home.id(), |known| known.service = number)?;
        }
        self.services.insert(number, spec.clone());
        Ok(Service {
            number,
            listen: Listen {
                version: kernel::ABI_VERSION,
                service: number,
                engine_id: self.id,
                secret,
            },
        })
    }

    /// Adds a legacy proxy that listens at `address` already, and marks its listener for it.
    ///
    /// Its processes, and those they start, are known by descent from the holders of the socket.
    /// Errors: as [`Engine::add_service`], and [`Error::NoListener`], [`Error::ListenerElsewhere`].
    pub fn adopt_service(&mut self, name: &str, address: SocketAddr) -> Result<Service, Error> {
        let found = legacy::find(address)?;
        let service = self.add_service(&ServiceSpec::legacy(name), &found.cgroup)?;
        for holder in &found.holders {
            self.name_owner(holder, service.number)?;
        }
        match sys::mark_listener(found.socket.as_fd(), &service.listen) {
            Ok(()) => Ok(service),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                Err(Error::ListenerElsewhere(address))
            }
            Err(error) => Err(Error::system("mark the proxy's listener")(error)),
        }
    }

    /// Puts a policy into force, whole: each connection is judged by the old one or by the new one.
    ///
    /// Errors leave the old one in force: [`Error::UnknownService`], [`Error::TooManyFilters`],
    /// [`Error::ContextTooLong`], [`Error::TooManyContexts`], [`Error::PortRange`], [`Error::Bpf`].
    pub fn set_policy(&mut self, filters: &[Filter]) -> Result<(), Error> {
        let (services, contexts) = (&self.services, &mut self.contexts);
        let context_map = &self.skeleton.maps.sidetrack_contexts;
        let policy = lower(
            self.generation + 1,
            filters,
            &|service| services.contains_key(&service),
            &mut |bytes| number_context(contexts, context_map, bytes),
        )?;
        let inner = new_policy_map()?;
        update(&inner, &0_u32, policy.as_bytes(), "write the policy")?;
        let inner = inner.as_fd().as_raw_fd();
        update(
            &self.skeleton.maps.sidetrack_policies,
            &0_u32,
            inner.as_bytes(),
            "put the policy into force",
        )?;
        self.generation += 1;
        Ok(())
    }

    /// How many listeners a service has now: IPv4, IPv6.
    pub fn listeners(&self, service: &Service) -> Result<(u32, u32), Error> {
        let value = self
            .skeleton
            .maps
            .sidetrack_services
            .lookup(service.number.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a service"))?;
        let value = value.and_then(|bytes| kernel::Service::read_from_bytes(&bytes).ok());
        Ok(value.map_or((0, 0), |value| (value.listeners4, value.listeners6)))
    }

    /// A service's name.
    pub fn service_name(&self, number: u32) -> Option<&str> {
        self.services.get(&number).map(|spec| spec.name.as_str())
    }

    /// Reads all counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        let map = &self.skeleton.maps.sidetrack_counters;
        let values = (0..kernel::COUNTERS.len() as u32)
            .map(|index| {
                let each = map
                    .lookup_percpu(index.as_bytes(), MapFlags::ANY)
                    .map_err(Error::bpf("read the counters"))?;
                let each = each.unwrap_or_default();
                Ok(each
                    .iter()
                    .filter_map(|value| u64::read_from_prefix(value).ok())
                    .map(|(value, _)| value)
                    .sum())
            })
            .collect::<Result<_, Error>>()?;
        let flows = self.skeleton.maps.bss_data.as_deref();
        Ok(Counters {
            values,
            flows: flows.map_or(0, |data| data.flows_live.max(0) as u64),
        })
    }

    /// The events since the last call; waits for one at most so long.
    pub fn events(&self, wait: Duration) -> Result<Vec<Event>, Error> {
        self.ring
            .poll(wait)
            .map_err(Error::bpf("read the event ring"))?;
        Ok(self.events.take())
    }

    /// The key of the tokens' codes, for a test that computes them by other means.
    #[doc(hidden)]
    pub fn token_key(&self) -> [u64; 2] {
        let constants = self.skeleton.maps.rodata_data;
        constants.expect("the object has constants").token_key
    }

    fn name_owner(&mut self, holder: &Holder, service: u32) -> Result<(), Error> {
        let owner = kernel::Owner {
            started: holder.started,
            cgroup_id: holder.cgroup_id,
            service,
            listeners: 0,
        };
        let owners = &self.skeleton.maps.sidetrack_owners;
        update(
            owners,
            &holder.pid,
            owner.as_bytes(),
            "name a service's process",
        )?;
        self.change_owner_cgroup(holder.cgroup_id, |known| known.owners += 1)
    }

    fn change_owner_cgroup(
        &mut self,
        cgroup: u64,
        change: impl FnOnce(&mut kernel::OwnerCgroup),
    ) -> Result<(), Error> {
        let map = &self.skeleton.maps.sidetrack_owner_cgroups;
        let known = map
            .lookup(cgroup.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a service's cgroup"))?;
        let mut known = known
            .and_then(|bytes| kernel::OwnerCgroup::read_from_bytes(&bytes).ok())
            .unwrap_or_default();
        change(&mut known);
        update(map, &cgroup, known.as_bytes(), "name a service's cgroup")
    }

    fn attach_client_side(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        if is_covered(&self.client_side, cgroup) {
            return Ok(());
        }
        let own = self.program_ids()?;
        if host::engine_around(cgroup, &own)? {
            return Err(Error::AlreadyAttached(cgroup.path().to_owned()));
        }
        // One program twice on a connection's way would divert it twice.
        self.client_side
            .retain(|attached| !attached.path.starts_with(cgroup.path()));
        let programs = &self.skeleton.progs;
        self.client_side.push(attach(
            cgroup,
            &[
                &programs.sidetrack_connect4,
                &programs.sidetrack_connect6,
                &programs.sidetrack_peer4,
                &programs.sidetrack_peer6,
                &programs.sidetrack_sockops,
            ],
        )?);
        Ok(())
    }

    fn attach_service_side(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        if is_covered(&self.service_side, cgroup) {
            return Ok(());
        }
        self.service_side
            .retain(|attached| !attached.path.starts_with(cgroup.path()));
        let programs = &self.skeleton.progs;
        self.service_side.push(attach(
            cgroup,
            &[
                &programs.sidetrack_getopt,
                &programs.sidetrack_setopt,
                &programs.sidetrack_release,
            ],
        )?);
        Ok(())
    }

    fn program_ids(&self) -> Result<Vec<u32>, Error> {
        let programs = &self.skeleton.progs;
        [&programs.sidetrack_connect4, &programs.sidetrack_connect6]
            .into_iter()
            .map(|program| {
                libbpf_rs::Program::id_from_fd(program.as_fd())
                    .map_err(Error::bpf("read a program's number"))
            })
            .collect()
    }
}

impl AsFd for Engine {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow_fd(&self.ring)
    }
}

fn is_covered(attachments: &[Attachment], cgroup: &Cgroup) -> bool {
    attachments
        .iter()
        .any(|attached| cgroup.path().starts_with(&attached.path))
}

fn attach(cgroup: &Cgroup, programs: &[&ProgramMut<'_>]) -> Result<Attachment, Error> {
    let links = programs
        .iter()
        .map(|program| program.attach_cgroup(cgroup.as_fd().as_raw_fd()))
        .collect::<Result<_, _>>()
        .map_err(Error::bpf("attach the programs to the cgroup"))?;
    Ok(Attachment {
        path: cgroup.path().to_owned(),
        _links: links,
    })
}

fn update<K: IntoBytes + zerocopy::Immutable>(
    map: &impl MapCore,
    key: &K,
    value: &[u8],
    what: &'static str,
) -> Result<(), Error> {
    map.update(key.as_bytes(), value, MapFlags::ANY)
        .map_err(Error::bpf(what))
}

fn new_policy_map() -> Result<MapHandle, Error> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    MapHandle::create(
        MapType::Array,
        Some("sidetrack_policy"),
        size_of::<u32>() as u32,
        size_of::<kernel::Policy>() as u32,
        1,
        &options,
    )
    .map_err(Error::bpf("make room for the policy"))
}

/// The number of a fixed context; the same bytes have the same number for the engine's whole life.
fn number_context(
    known: &mut HashMap<Vec<u8>, u32>,
    map: &impl MapCore,
    bytes: &[u8],
) -> Result<u32, Error> {
    if let Some(&number) = known.get(bytes) {
        return Ok(number);
    }
    if known.len() >= kernel::CONTEXTS_MAX {
        return Err(Error::TooManyContexts);
    }
    let number = known.len() as u32 + 1;
    let mut value = kernel::Context {
        length: bytes.len() as u32,
        bytes: [0; kernel::CONTEXT_SIZE_MAX],
    };
    value.bytes[..bytes.len()].copy_from_slice(bytes);
    update(map, &number, value.as_bytes(), "keep a redirect context")?;
    known.insert(bytes.to_vec(), number);
    Ok(number)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::system("get random bytes")(error.into()))?;
    Ok(bytes)
}
