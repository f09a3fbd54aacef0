//! The engine: loads the programs, attaches them to cgroups, and gives them services and policies.

mod attachment;
mod classify;
mod context;
mod flow;
mod notices;
mod owner;
mod pended;
mod pins;
mod policy;
mod program;
mod reset;
mod sender;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, RingBuffer};
use sidetrack_abi::kernel::{self, Listen};
use sidetrack_policy::compile::PolicySource;
use sidetrack_policy::{ConnectMode, Listeners, Uuid};
use zerocopy::{FromBytes, IntoBytes};

use crate::counter::{Counter, Counters};
use crate::event::{Event, EventKind};
use crate::network::{Network, no_ipv6};
use crate::skeleton::{OpenSidetrackSkel, SidetrackSkel, SidetrackSkelBuilder};
use crate::{Cgroup, Error, RegisteredService, ServiceSpec, host, legacy, namespace, sys};

use attachment::Attachment;
use context::Contexts;
use pins::{EngineIdentity, Pins};
use program::{CgroupProgram, ProgramSet};

pub use classify::Classification;
pub use flow::{FlowEntry, MapUsage};
pub use notices::open_ring;
pub use pended::{PendedDescriptors, PendedRefusal};
pub use pins::{check_pins, pinned_programs, pins_at, remove_pins};
pub use policy::{Committed, PolicyInForce};
pub use sender::{Senders, senders_of};

/// Settings that take effect when the engine is loaded.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of slots for flows, including closed ones in their grace period. Each takes 312 bytes, which
    /// are allocated at load.
    pub flows_max: u32,
    /// The grace period: how long a token outlives the last socket of its flow.
    pub grace: Duration,
    /// The idle time-out: how long the flow of an unconnected UDP socket exists without a datagram.
    pub idle: Duration,
    /// A folder of a bpf file system where the data path is pinned, so that it outlives the process. An
    /// engine resumes what an earlier one of the same scope left there, with its limits and time-outs.
    pub pins: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows_max: kernel::FLOWS_MAX,
            grace: Duration::from_nanos(kernel::GRACE_NS),
            idle: Duration::from_nanos(kernel::IDLE_NS),
            pins: None,
        }
    }
}

/// An engine that is prepared, but not loaded into the kernel.
pub struct OpenEngine<'scope> {
    skeleton: OpenSidetrackSkel<'static>,
    scope: &'scope Cgroup,
    identity: EngineIdentity,
    pins: Option<Pins>,
    resumed: bool,
}

/// An engine that is loaded into the kernel, but not attached.
pub struct LoadedEngine<'scope> {
    engine: Engine,
    scope: &'scope Cgroup,
}

/// An engine at work. When it is dropped, or its process ends, its links, programs and maps are
/// removed. If it is pinned, they stay.
pub struct Engine {
    // Fields are dropped in this order: no program runs any more when the maps are freed.
    attachments: Vec<Attachment>,
    ring: RingBuffer<'static>,
    skeleton: SidetrackSkel<'static>,
    /// `None` where the kernel has no IPv6.
    network: Option<Network>,
    events: Rc<RefCell<Vec<Event>>>,
    /// The counter of lost events, as [`Engine::events_lost`] last read it.
    lost_before: Cell<u64>,
    services: BTreeMap<u32, ServiceSpec>,
    retired: BTreeSet<u32>,
    contexts: Contexts,
    generation: u32,
    source: PolicySource,
    id: u64,
    pins: Option<Pins>,
    resumed: bool,
    scope: PathBuf,
    last_number: u32,
}

impl Engine {
    /// Prepares an engine whose scope is `scope` with all cgroups below it.
    ///
    /// Errors: [`Error::NoCgroup2`], [`Error::NoBtf`], [`Error::Privilege`], [`Error::UserNamespace`],
    /// [`Error::Kernel`], [`Error::Pins`].
    pub fn open(scope: &Cgroup, config: Config) -> Result<OpenEngine<'_>, Error> {
        host::require()?;
        libbpf_rs::set_print(None);
        // libbpf-rs needs storage for its object that outlives the skeleton. It has the size of a pointer.
        let storage: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut skeleton = SidetrackSkelBuilder::default()
            .open(storage)
            .map_err(Error::Kernel)?;
        let pins = config.pins.clone().map(Pins::at).transpose()?;
        let found = match &pins {
            Some(pins) => pins.identity_of(scope)?,
            None => None,
        };
        let resumed = found.is_some();
        let identity = match found {
            Some(identity) => identity,
            None => EngineIdentity::new(scope, &config)?,
        };
        match (&pins, resumed) {
            (Some(pins), true) => pins.reuse_maps(&mut skeleton)?,
            _ => {
                let maps = &mut skeleton.maps;
                let flows = maps.sidetrack_flows.set_max_entries(identity.flows_max);
                let destinations = maps
                    .sidetrack_destinations
                    .set_max_entries(identity.flows_max);
                flows.and(destinations).map_err(Error::Kernel)?;
            }
        }
        let constants = skeleton
            .maps
            .rodata_data
            .as_deref_mut()
            .expect("the object has constants");
        constants.engine_id = identity.engine_id;
        constants.token_key = identity.token_key;
        constants.scope_id = identity.scope_id;
        constants.scope_level = identity.scope_level;
        let pid_namespace = namespace::own_pid_namespace()?;
        constants.pid_level = pid_namespace.level;
        constants.pid_inode = pid_namespace.inode;
        constants.flows_max = identity.flows_max;
        constants.grace_ns = identity.grace_ns;
        constants.idle_ns = identity.idle_ns;
        Ok(OpenEngine {
            skeleton,
            scope,
            identity,
            pins,
            resumed,
        })
    }
}

impl<'scope> OpenEngine<'scope> {
    /// Leaves out the programs that no connect needs, which makes loading faster. A policy with filters at other
    /// layers than connect redirect and auth connect then cannot be put in force: [`Error::Bpf`].
    pub fn for_connects(mut self) -> Self {
        for mut program in self.skeleton.open_object_mut().progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let needed = CgroupProgram::of_name(&name).is_none_or(CgroupProgram::serves_connects);
            if !needed {
                program.set_autoload(false);
            }
        }
        self
    }

    /// Loads programs and maps into the kernel.
    ///
    /// Errors: [`Error::Kernel`], [`Error::Pins`], [`Error::Bpf`], [`Error::System`].
    pub fn load(self) -> Result<LoadedEngine<'scope>, Error> {
        let mut skeleton = self.skeleton.load().map_err(Error::Kernel)?;
        if let (Some(pins), false) = (&self.pins, self.resumed) {
            pins.pin_maps(&mut skeleton, &self.identity)?;
        }
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
        let mut engine = Engine {
            attachments: Vec::new(),
            ring,
            skeleton,
            network: None,
            events,
            lost_before: Cell::new(0),
            services: BTreeMap::new(),
            retired: BTreeSet::new(),
            contexts: Contexts::default(),
            generation: 0,
            source: PolicySource::default(),
            id: self.identity.engine_id,
            pins: self.pins,
            resumed: self.resumed,
            scope: self.scope.path().to_owned(),
            last_number: 0,
        };
        if self.resumed {
            engine.resume()?;
            engine.events_lost()?; // those of earlier engines
        }
        engine.add_flow_addresses()?;
        Ok(LoadedEngine {
            engine,
            scope: self.scope,
        })
    }
}

impl LoadedEngine<'_> {
    /// Attaches the client side to the scope. Without a policy, it redirects nothing.
    ///
    /// Errors: [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn attach(mut self) -> Result<Engine, Error> {
        self.engine.attach_client_side(self.scope)?;
        Ok(self.engine)
    }
}

impl Engine {
    /// Adds a service whose proxy makes its listener in the cgroup `home`, or below it.
    ///
    /// `home` becomes one of the engine's homes: see [`Engine::attach_home`]. Errors: [`Error::ServiceName`],
    /// [`Error::TooManyServices`], [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn add_service(
        &mut self,
        spec: &ServiceSpec,
        home: &Cgroup,
    ) -> Result<RegisteredService, Error> {
        self.attach_home(home, spec.connect)?;
        let service = self.create_service(spec)?;
        if spec.owns_cgroup {
            let number = service.number;
            self.change_owner_cgroup(home.id(), |entry| entry.service = number)?;
        }
        Ok(service)
    }

    /// Adds a service before the cgroups of its proxies are known: see [`Engine::attach_home`].
    ///
    /// Errors: [`Error::ServiceName`], [`Error::TooManyServices`], [`Error::Bpf`].
    pub fn create_service(&mut self, spec: &ServiceSpec) -> Result<RegisteredService, Error> {
        let number = self.free_service_number().ok_or(Error::TooManyServices)?;
        let secret = pins::random()?;
        let value = spec.to_kernel(secret)?;
        update(
            &self.skeleton.maps.sidetrack_services,
            &number,
            value.as_bytes(),
            "add a service",
        )?;
        if spec.connect == ConnectMode::Pended {
            self.make_ring(number)?;
        }
        self.services.insert(number, spec.clone());
        Ok(self.service_of(number, spec, secret))
    }

    /// Makes a cgroup a home: proxies in it, or below it, can use the socket options.
    ///
    /// This attaches the service side, and the client side for the proxies' outgoing sockets; also, for a
    /// service that pends connects, what holds SYNs.
    ///
    /// Errors: [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn attach_home(&mut self, home: &Cgroup, connect: ConnectMode) -> Result<(), Error> {
        self.attach_client_side(home)?;
        if connect == ConnectMode::Pended {
            self.attach(ProgramSet::Hold, home)?;
            let scope = Cgroup::at(&self.scope)?;
            self.attach(ProgramSet::Guard, &scope)?;
            self.attach(ProgramSet::Guard, home)?; // for a chain's outgoing sockets
        }
        self.attach(ProgramSet::Service, home)
    }

    /// Removes a service. Its listeners and processes then belong to no service, and its secret is
    /// invalid; its flows go on.
    ///
    /// The policy in force must not redirect to it. Errors: [`Error::Bpf`].
    pub fn remove_service(&mut self, number: u32) -> Result<(), Error> {
        self.reset_held(number, u64::MAX)?; // while its flows and its port are known
        let gone = [0_u8; size_of::<kernel::Service>()];
        update(
            &self.skeleton.maps.sidetrack_services,
            &number,
            &gone,
            "remove a service",
        )?;
        self.remove_ring(number);
        self.services.remove(&number);
        self.retired.remove(&number);
        self.collect_owners()
    }

    /// Says which services the policies of later commits do not use. Another service may have the key of a
    /// retired one. The policy in force may still redirect to it, so it is removed after a commit.
    pub fn retire_services(&mut self, numbers: BTreeSet<u32>) {
        self.retired = numbers;
    }

    /// The retired services, with their keys.
    pub fn retired_services(&self) -> Vec<(u32, Uuid)> {
        let retired = self.retired.iter();
        retired
            .filter_map(|number| Some((*number, self.services.get(number)?.key)))
            .collect()
    }

    /// Changes `on_absent` and `context` of a service, for filters that do not set them, and `connect`, for
    /// listeners that it marks from now on. The service's entry in the kernel's map does not change.
    ///
    /// What concerns filters takes effect with the next commit. Errors: [`Error::Bpf`].
    pub fn amend_service(&mut self, number: u32, spec: &ServiceSpec) -> Result<(), Error> {
        let Some(service) = self.services.get_mut(&number) else {
            return Ok(());
        };
        service.on_absent = spec.on_absent;
        service.context = spec.context.clone();
        service.connect = spec.connect;
        // If it is not to pend any more, its listeners still do, so it keeps its ring buffer.
        if spec.connect == ConnectMode::Pended && self.ring(number)?.is_none() {
            self.make_ring(number)?;
        }
        Ok(())
    }

    /// All services, with their numbers.
    pub fn services(&self) -> impl Iterator<Item = (u32, &ServiceSpec)> {
        self.services.iter().map(|(number, spec)| (*number, spec))
    }

    /// The service of a number, with its credentials; `None` if there is none.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn service(&self, number: u32) -> Result<Option<RegisteredService>, Error> {
        let value = self.read_service(number)?;
        let spec = self.services.get(&number);
        Ok(value
            .zip(spec)
            .map(|(value, spec)| self.service_of(number, spec, value.secret)))
    }

    /// Adds a service for a legacy proxy that listens at `address` already, and marks its listener.
    ///
    /// The processes that hold the socket, and their descendants, become owners.
    /// Errors: as [`Engine::add_service`], and [`Error::NoListener`], [`Error::ListenerElsewhere`].
    pub fn adopt_service(
        &mut self,
        name: &str,
        address: SocketAddr,
    ) -> Result<RegisteredService, Error> {
        let found = legacy::find(address)?;
        let service = self.add_service(&ServiceSpec::legacy(name), &found.cgroup)?;
        for holder in &found.holders {
            self.add_owner(holder, service.number)?;
        }
        match sys::mark_listener(found.socket.as_fd(), &service.listen) {
            Ok(()) => Ok(service),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                Err(Error::ListenerElsewhere(address))
            }
            Err(error) => Err(Error::system("mark the proxy's listener")(error)),
        }
    }

    /// The listeners that a service has now.
    pub fn listeners(&self, service: &RegisteredService) -> Result<Listeners, Error> {
        self.listeners_of(service.number)
    }

    /// The listeners that the service of a number has now; none if there is no such service.
    pub fn listeners_of(&self, number: u32) -> Result<Listeners, Error> {
        let value = self.read_service(number)?;
        Ok(value.map_or(Listeners::default(), |value| Listeners {
            tcp4: value.listeners4,
            tcp6: value.listeners6,
            udp4: value.datagrams4,
            udp6: value.datagrams6,
        }))
    }

    /// The name of a service.
    pub fn service_name(&self, number: u32) -> Option<&str> {
        self.services.get(&number).map(|spec| spec.name.as_str())
    }

    /// When a service completes the connects of its clients.
    pub fn connect_mode(&self, number: u32) -> ConnectMode {
        let service = self.services.get(&number);
        service.map_or(ConnectMode::Accepted, |spec| spec.connect)
    }

    /// The generation of the policy in force; 0 before the first commit.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether it resumed what an earlier engine had pinned.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Reads all counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        let values = (0..kernel::COUNTERS.len() as u32)
            .map(|index| self.read_counter(index))
            .collect::<Result<_, Error>>()?;
        let flows = self.skeleton.maps.bss_data.as_deref();
        Ok(Counters {
            values,
            flows: flows.map_or(0, |data| data.flows_live.max(0) as u64),
        })
    }

    fn read_counter(&self, index: u32) -> Result<u64, Error> {
        let map = &self.skeleton.maps.sidetrack_counters;
        let each = map
            .lookup_percpu(index.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read the counters"))?;
        let each = each.unwrap_or_default();
        Ok(each
            .iter()
            .filter_map(|value| u64::read_from_prefix(value).ok())
            .map(|(value, _)| value)
            .sum())
    }

    /// The events since the last call. If there are none, waits for one, but no longer than `wait`.
    ///
    /// If a service has ended that held connects, their clients are reset; that is no event for the caller.
    pub fn events(&self, wait: Duration) -> Result<Vec<Event>, Error> {
        self.ring
            .poll(wait)
            .map_err(Error::bpf("read the event ring"))?;
        let mut events = self.events.take();
        let left = events.extract_if(.., |event| event.kind == EventKind::PendedLeft);
        for event in left {
            self.reset_held(event.service, event.time)?;
        }
        Ok(events)
    }

    /// The number of events that were lost since the last call, because the ring buffer was full.
    /// They came after the events that [`Engine::events`] has returned.
    pub fn events_lost(&self) -> Result<u64, Error> {
        let lost = self.read_counter(Counter::EventsDropped as u32)?;
        Ok(lost - self.lost_before.replace(lost))
    }

    /// The key of the tokens, for a test that computes them with another library.
    #[doc(hidden)]
    pub fn token_key(&self) -> [u64; 2] {
        let constants = self.skeleton.maps.rodata_data;
        constants.expect("the object has constants").token_key
    }

    /// Adds the IPv6 addresses of UDP flows to this network namespace. Without IPv6 there are none, and no
    /// service can have UDP listeners for IPv6.
    fn add_flow_addresses(&mut self) -> Result<(), Error> {
        let pinned = self.pins.is_some();
        let network = match Network::add(self.id, pinned) {
            Err(error) if no_ipv6(&error) => return Ok(()),
            network => network.map_err(Error::system("add the IPv6 addresses for datagrams"))?,
        };
        let networks = &self.skeleton.maps.sidetrack_networks;
        let one = 1_u32.to_ne_bytes();
        update(
            networks,
            &network.cookie,
            &one,
            "add the network namespace to the map of networks",
        )?;
        self.network = Some(network);
        Ok(())
    }

    /// A number that no service has. Numbers are used in turn, since flows keep the numbers of services that
    /// were removed.
    fn free_service_number(&mut self) -> Option<u32> {
        let numbers = 1..kernel::SERVICES_MAX as u32;
        let free = |number: &u32| !self.services.contains_key(number);
        let number = numbers
            .clone()
            .skip(self.last_number as usize)
            .find(free)
            .or_else(|| numbers.clone().find(free))?;
        self.last_number = number;
        Some(number)
    }

    fn service_of(&self, number: u32, spec: &ServiceSpec, secret: [u8; 16]) -> RegisteredService {
        RegisteredService {
            number,
            key: spec.key,
            listen: Listen {
                version: kernel::ABI_VERSION,
                service: number,
                engine_id: self.id,
                secret,
            },
        }
    }

    fn read_service(&self, number: u32) -> Result<Option<kernel::Service>, Error> {
        let value = self
            .skeleton
            .maps
            .sidetrack_services
            .lookup(number.as_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read a service"))?;
        Ok(value.and_then(|bytes| kernel::Service::read_from_bytes(&bytes).ok()))
    }
}

impl AsFd for Engine {
    /// The descriptor is readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow_fd(&self.ring)
    }
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
