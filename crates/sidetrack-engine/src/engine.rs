//! The engine: programs loaded, attached to cgroups, and told of services and filters.

mod attachment;
mod classify;
mod context;
mod flow;
mod owner;
mod pins;
mod policy;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, RingBuffer};
use sidetrack_abi::kernel::{self, Listen};
use zerocopy::{FromBytes, IntoBytes};

use crate::counter::Counters;
use crate::event::Event;
use crate::filter::to_objects;
use crate::network::{Network, no_ipv6};
use crate::skeleton::{OpenSidetrackSkel, SidetrackSkel, SidetrackSkelBuilder};
use crate::{Cgroup, Error, Filter, Service, ServiceSpec, host, legacy, namespace, sys};

use attachment::{Attachment, Side};
use context::Contexts;
use pins::{Identity, Pins};

pub use classify::Classification;
pub use flow::{FlowEntry, Table};
pub use pins::{pinned_programs, pins_at, remove_pins};
pub use policy::Committed;

/// What can be set before load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flows kept at once, closed ones in their grace included; 312 bytes each, taken at load.
    pub flows_max: u32,
    /// How long a token outlives its flow's last socket.
    pub grace: Duration,
    /// How long the flow of an unconnected UDP socket lasts without a datagram.
    pub idle: Duration,
    /// A folder of a bpf file system that holds the data path, so that it outlives the process. What
    /// an earlier engine has left there is taken up, with its scope and its limits.
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

/// Opened, not yet in the kernel.
pub struct OpenEngine<'scope> {
    skeleton: OpenSidetrackSkel<'static>,
    scope: &'scope Cgroup,
    identity: Identity,
    pins: Option<Pins>,
    resumed: bool,
}

/// In the kernel, not yet attached.
pub struct LoadedEngine<'scope> {
    engine: Engine,
    scope: &'scope Cgroup,
}

/// At work. When dropped, or when its process ends, all of it goes: links, programs, maps; unless it
/// is pinned, then all of it stays.
pub struct Engine {
    // Fields are dropped in this order: nothing runs any more when the maps go.
    attachments: Vec<Attachment>,
    ring: RingBuffer<'static>,
    skeleton: SidetrackSkel<'static>,
    /// None where the kernel has no IPv6.
    network: Option<Network>,
    events: Rc<RefCell<Vec<Event>>>,
    services: BTreeMap<u32, ServiceSpec>,
    contexts: Contexts,
    generation: u32,
    id: u64,
    pins: Option<Pins>,
    resumed: bool,
    scope: PathBuf,
    last_number: u32,
}

impl Engine {
    /// Prepares an engine that judges the programs of `scope` and of all cgroups below.
    ///
    /// Errors: [`Error::Privilege`], [`Error::NoBtf`], [`Error::Kernel`], [`Error::Pins`].
    pub fn open(scope: &Cgroup, config: Config) -> Result<OpenEngine<'_>, Error> {
        host::require()?;
        libbpf_rs::set_print(None);
        // The library wants a place for its object that outlives the skeleton. It is a pointer's size.
        let place: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut skeleton = SidetrackSkelBuilder::default()
            .open(place)
            .map_err(Error::Kernel)?;
        let pins = config.pins.clone().map(Pins::at).transpose()?;
        let found = pins.as_ref().map(Pins::identity).transpose()?.flatten();
        let resumed = found.is_some();
        let identity = match found {
            Some(identity) => identity.of_scope(scope)?,
            None => Identity::new(scope, &config)?,
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
        let pids = namespace::of_pids()?;
        constants.pid_level = pids.level;
        constants.pid_inode = pids.inode;
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
    /// Brings programs and maps into the kernel. Errors: [`Error::Kernel`], [`Error::Pins`].
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
            services: BTreeMap::new(),
            contexts: Contexts::default(),
            generation: 0,
            id: self.identity.engine_id,
            pins: self.pins,
            resumed: self.resumed,
            scope: self.scope.path().to_owned(),
            last_number: 0,
        };
        if self.resumed {
            engine.take_up()?;
        }
        engine.take_network()?;
        Ok(LoadedEngine {
            engine,
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
        self.attach_home(home)?;
        let service = self.create_service(spec)?;
        if spec.owns_cgroup {
            let number = service.number;
            self.change_owner_cgroup(home.id(), |known| known.service = number)?;
        }
        Ok(service)
    }

    /// Adds a service whose proxies' cgroups are not known yet: see [`Engine::attach_home`].
    ///
    /// Errors: [`Error::ServiceName`], [`Error::TooManyServices`], [`Error::Bpf`].
    pub fn create_service(&mut self, spec: &ServiceSpec) -> Result<Service, Error> {
        let number = self.free_number().ok_or(Error::TooManyServices)?;
        let secret = pins::random()?;
        let value = spec.lower(secret)?;
        update(
            &self.skeleton.maps.sidetrack_services,
            &number,
            value.as_bytes(),
            "add a service",
        )?;
        self.services.insert(number, spec.clone());
        Ok(self.service_of(number, secret))
    }

    /// Makes a cgroup, with all below it, one in which proxies can be.
    ///
    /// Errors: [`Error::AlreadyAttached`], [`Error::Bpf`].
    pub fn attach_home(&mut self, home: &Cgroup) -> Result<(), Error> {
        self.attach_client_side(home)?;
        self.attach(Side::Service, home)
    }

    /// Takes a service away. Its listeners and processes are nobody's from now on, and its secret is
    /// worth nothing; its flows go on.
    ///
    /// A policy in force must not name it. Errors: [`Error::Bpf`].
    pub fn remove_service(&mut self, number: u32) -> Result<(), Error> {
        let gone = [0_u8; size_of::<kernel::Service>()];
        update(
            &self.skeleton.maps.sidetrack_services,
            &number,
            &gone,
            "remove a service",
        )?;
        self.services.remove(&number);
        self.collect_owners()
    }

    /// Changes what a service's filters do by themselves: what the kernel has of the service stays.
    ///
    /// In force with the next commit.
    pub fn amend_service(&mut self, number: u32, spec: &ServiceSpec) {
        if let Some(known) = self.services.get_mut(&number) {
            known.on_absent = spec.on_absent;
            known.context = spec.context.clone();
        }
    }

    /// The services, by number.
    pub fn services(&self) -> impl Iterator<Item = (u32, &ServiceSpec)> {
        self.services.iter().map(|(number, spec)| (*number, spec))
    }

    /// A service that is there, with what its proxies must bring.
    pub fn service(&self, number: u32) -> Result<Option<Service>, Error> {
        let value = self.read_service(number)?;
        Ok(value
            .filter(|_| self.services.contains_key(&number))
            .map(|value| self.service_of(number, value.secret)))
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

    /// Puts a list of filters into force, whole: each connection is judged by the old policy or by the
    /// new one.
    ///
    /// Errors leave the old one in force: [`Error::UnknownService`], [`Error::TooManyFilters`],
    /// [`Error::ContextTooLong`], [`Error::TooManyContexts`], [`Error::PortRange`], [`Error::Bpf`].
    pub fn set_policy(&mut self, filters: &[Filter]) -> Result<(), Error> {
        self.set_policy_with(filters, &[])
    }

    /// The same, with filters of other kinds beside the list, judged in the same sublayer.
    ///
    /// Errors: as [`Engine::set_policy`].
    pub fn set_policy_with(
        &mut self,
        filters: &[Filter],
        others: &[sidetrack_policy::Filter],
    ) -> Result<(), Error> {
        let filters = to_objects(filters, &self.services)?;
        self.commit(filters.iter().chain(others), &[]).map(|_| ())
    }

    /// How many listeners a service has now: IPv4, IPv6.
    pub fn listeners(&self, service: &Service) -> Result<(u32, u32), Error> {
        self.listeners_of(service.number)
    }

    /// The same, of a number. None for one that no service has.
    pub fn listeners_of(&self, number: u32) -> Result<(u32, u32), Error> {
        let value = self.read_service(number)?;
        Ok(value.map_or((0, 0), |value| (value.listeners4, value.listeners6)))
    }

    /// How many UDP sockets a service has now: IPv4, IPv6.
    pub fn datagram_listeners(&self, service: &Service) -> Result<(u32, u32), Error> {
        let value = self.read_service(service.number)?;
        Ok(value.map_or((0, 0), |value| (value.datagrams4, value.datagrams6)))
    }

    /// A service's name.
    pub fn service_name(&self, number: u32) -> Option<&str> {
        self.services.get(&number).map(|spec| spec.name.as_str())
    }

    /// Counts commits; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// It took up what an earlier engine had pinned.
    pub fn resumed(&self) -> bool {
        self.resumed
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

    /// Takes the IPv6 addresses for flows of datagrams. Without IPv6 there are none, and no services'
    /// sockets for them.
    fn take_network(&mut self) -> Result<(), Error> {
        let kept = self.pins.is_some();
        let network = match Network::take(self.id, kept) {
            Err(error) if no_ipv6(&error) => return Ok(()),
            network => network.map_err(Error::system("take IPv6 addresses for datagrams"))?,
        };
        let networks = &self.skeleton.maps.sidetrack_networks;
        let one = 1_u32.to_ne_bytes();
        update(
            networks,
            &network.cookie,
            &one,
            "name the network namespace",
        )?;
        self.network = Some(network);
        Ok(())
    }

    /// A number that no service has, and that was not given lately: flows keep their services' numbers.
    fn free_number(&mut self) -> Option<u32> {
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

    fn service_of(&self, number: u32, secret: [u8; 16]) -> Service {
        Service {
            number,
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
    /// Readable when there are events.
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
