//! A cgroup, an engine, and what is in them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sidetrack::Flow;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_engine::{Cgroup, Config, Engine, Filter, Service, ServiceSpec};

use crate::client::{Client, cargo_bin};
use crate::datagram::RunningDatagrams;
use crate::process::Process;
use crate::proxy::{Running, answer, relay, serve, storm, storm_with};
use crate::wait;

/// A test's own part of this host.
pub struct Host {
    /// The engine; `None` once it was taken away.
    pub engine: Option<Engine>,
    /// For clients.
    pub program: Cgroup,
    /// For proxies.
    pub service: Cgroup,
    root: Cgroup,
    before: Cgroup,
    events: Vec<Event>,
}

impl Host {
    /// With an engine whose scope is the whole of the test's cgroup.
    pub fn new(test: &str) -> Self {
        Self::with(test, Config::default())
    }

    /// The same, with other limits.
    pub fn with(test: &str, config: Config) -> Self {
        let mut host = Self::bare(test);
        let engine = Engine::open(&host.root, config)
            .and_then(|engine| engine.load())
            .and_then(|engine| engine.attach());
        host.engine = Some(engine.unwrap_or_else(|error| panic!("{error}: {error:?}")));
        host.enter_service();
        host
    }

    /// Only the cgroups, no engine.
    pub fn bare(test: &str) -> Self {
        assert!(
            std::env::var_os("NEXTEST").is_some(),
            "system tests need a process each: use `make test`, or cargo nextest run"
        );
        let before = Cgroup::of_process(None).expect("this process has a cgroup");
        let base = Cgroup::root().expect("cgroup v2 is mounted");
        let name = format!("e2e-{test}");
        if let Ok(stale) = Cgroup::at(&base.path().join(&name)) {
            let _ = stale.kill();
            stale.remove().expect("an earlier run's cgroup can go");
        }
        let root = base.make(&name).expect("a cgroup can be made");
        Self {
            engine: None,
            program: root.make("program").expect("a cgroup can be made"),
            service: root.make("service").expect("a cgroup can be made"),
            root,
            before,
            events: Vec::new(),
        }
    }

    /// The scope.
    pub fn root(&self) -> &Cgroup {
        &self.root
    }

    /// The engine. Panics once it was taken away.
    pub fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("the engine is there")
    }

    /// From now on this process makes its sockets as a proxy does.
    pub fn enter_service(&self) {
        self.service.add(std::process::id()).expect("may move");
    }

    /// From now on this process makes its sockets outside the scope.
    pub fn leave(&self) {
        self.before.add(std::process::id()).expect("may move");
    }

    /// A new service that must set records.
    pub fn service(&mut self, name: &str) -> Service {
        self.service_of(&ServiceSpec::new(name))
    }

    /// A new service.
    pub fn service_of(&mut self, spec: &ServiceSpec) -> Service {
        let engine = self.engine.as_mut().expect("the engine is there");
        engine
            .add_service(spec, &self.service)
            .expect("a service can be added")
    }

    /// A policy that sends everything to these services, in order.
    pub fn redirect_all(&mut self, services: &[&Service]) {
        let filters: Vec<_> = services
            .iter()
            .map(|service| Filter::redirect_all(service.number))
            .collect();
        self.set_policy(&filters);
    }

    /// A policy that sends all datagrams to these services, in order.
    pub fn redirect_datagrams(&mut self, services: &[&Service]) {
        let filters: Vec<_> = services
            .iter()
            .map(|service| Filter::redirect_datagrams(service.number))
            .collect();
        self.set_policy(&filters);
    }

    /// A policy.
    pub fn set_policy(&mut self, filters: &[Filter]) {
        self.engine()
            .set_policy(filters)
            .expect("the policy is good");
    }

    /// A proxy that answers each connection with its original destination, and closes it.
    pub fn answer(&self, service: &Service) -> Running {
        answer(service)
    }

    /// A proxy that sends each datagram back, as from where it was going.
    pub fn echo_datagrams(&self, service: &Service) -> RunningDatagrams {
        crate::datagram::echo(service)
    }

    /// A proxy that goes on to where datagrams were going, with the records, and relays.
    pub fn relay_datagrams(&self, service: &Service) -> RunningDatagrams {
        crate::datagram::relay(service)
    }

    /// A proxy that goes on to the original destination with the records, and relays.
    pub fn relay(&self, service: &Service) -> Running {
        relay(service)
    }

    /// A proxy that does as told with each connection, in a thread of its own.
    pub fn serve(
        &self,
        service: &Service,
        handle: impl Fn(TcpStream, Flow) -> io::Result<()> + Send + Sync + 'static,
    ) -> Running {
        serve(service, handle)
    }

    /// The client program, in the scope. See `src/bin/client.rs`.
    pub fn client<T: AsRef<str>>(&self, arguments: &[T]) -> Client {
        Client::start(&self.program, &cargo_bin("client"), arguments)
    }

    /// The client program, in a cgroup of the caller's choice.
    pub fn client_in<T: AsRef<str>>(&self, cgroup: &Cgroup, arguments: &[T]) -> Client {
        Client::start(cgroup, &cargo_bin("client"), arguments)
    }

    /// A proxy that is a process of its own, where proxies are. See `src/bin/proxy.rs`.
    pub fn proxy(&self, service: &Service, kind: &str) -> Process {
        Process::proxy(&self.service, Some(service), &[kind])
    }

    /// The same at an address of the caller's choice.
    pub fn proxy_at(&self, service: &Service, kind: &str, address: SocketAddr) -> Process {
        Process::proxy(&self.service, Some(service), &[kind, &address.to_string()])
    }

    /// A proxy that knows nothing of us.
    pub fn legacy_proxy(&self, kind: &str) -> Process {
        Process::proxy(&self.service, None, &[kind])
    }

    /// A proxy that answers like [`Host::answer`], for storms: it keeps no flows.
    pub fn answer_storm(&self, service: &Service) {
        storm(service, false);
    }

    /// The same, with an answer of the caller's.
    pub fn answer_storm_with(&self, service: &Service, answer: fn(&Flow) -> String) {
        storm_with(service, false, answer);
    }

    /// A proxy that relays like [`Host::relay`], for storms: it keeps no flows.
    pub fn relay_storm(&self, service: &Service) {
        storm(service, true);
    }

    /// Any program, in the scope.
    pub fn run<T: AsRef<str>>(&self, arguments: &[T]) -> Client {
        let mut all = vec!["exec".to_owned(), "--".to_owned()];
        all.extend(arguments.iter().map(|one| one.as_ref().to_owned()));
        self.client(&all)
    }

    /// Connects once, in the scope, and tells what came of it.
    pub fn connect(&self, to: &str) -> serde_json::Value {
        self.client(&["connect", to]).json()
    }

    /// The same towards an [`crate::Origin`], which greets and sends the text back.
    pub fn connect_and_send(&self, to: &str, text: &str) -> serde_json::Value {
        self.client(&["connect", to, "--send", text]).json()
    }

    /// One counter.
    pub fn count(&self, counter: Counter) -> u64 {
        let engine = self.engine.as_ref().expect("the engine is there");
        engine.counters().expect("can be read").value(counter)
    }

    /// Flows that the kernel keeps.
    pub fn flows(&self) -> u64 {
        let engine = self.engine.as_ref().expect("the engine is there");
        engine.counters().expect("can be read").flows
    }

    /// Waits for an event of this kind about this destination.
    pub fn await_event(&mut self, kind: EventKind, destination: &str) -> Event {
        let destination: SocketAddr = destination.parse().expect("an address");
        let mut found = None;
        wait::until(&format!("{kind:?} is reported"), || {
            let engine = self.engine.as_ref().expect("the engine is there");
            self.events
                .extend(engine.events(Duration::from_millis(1)).expect("readable"));
            found = self
                .events
                .iter()
                .find(|event| event.kind == kind && event.destination == destination)
                .cloned();
            found.is_some()
        });
        found.expect("just found")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.engine.take());
        self.leave();
        let _ = self.root.kill();
        if let Err(error) = self.root.remove() {
            eprintln!("the test's cgroup stays: {error}");
        }
    }
}
