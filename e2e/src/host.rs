//! The cgroups and the engine of one test.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sidetrack::Flow;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::{Event, EventKind};
use sidetrack_engine::{Cgroup, Config, Engine, RegisteredService, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};
use sidetrack_policy::{Filter, Sublayer};

use crate::client::{Client, cargo_bin};
use crate::datagram::RunningDatagramProxy;
use crate::policy::{redirect_tcp, redirect_udp};
use crate::process::Process;
use crate::proxy::{RunningProxy, answer, relay, serve, storm, storm_with};
use crate::wait;

/// The cgroups of one test, with an engine. On drop the engine ends, and the cgroups are removed with
/// all processes in them.
pub struct Host {
    /// The engine; `None` if the test has taken it.
    pub engine: Option<Engine>,
    /// The cgroup for clients.
    pub program_cgroup: Cgroup,
    /// The cgroup for proxies.
    pub service_cgroup: Cgroup,
    /// The test's cgroup, above the two others.
    root: Cgroup,
    /// The cgroup in which this process was before the test.
    outside: Cgroup,
    /// All events that the engine has reported so far.
    events: Vec<Event>,
}

impl Host {
    /// Makes the cgroups, and an engine whose scope is the test's cgroup. This process enters the
    /// cgroup for proxies.
    pub fn new(test: &str) -> Self {
        Self::with_config(test, Config::default())
    }

    /// The same as [`Host::new`], with this configuration of the engine.
    pub fn with_config(test: &str, config: Config) -> Self {
        let mut host = Self::without_engine(test);
        let engine = Engine::open(&host.root, config)
            .and_then(|engine| engine.load())
            .and_then(|engine| engine.attach());
        host.engine = Some(engine.unwrap_or_else(|error| panic!("{error}: {error:?}")));
        host.enter_service_cgroup();
        host
    }

    /// Makes the cgroups, but no engine. This process stays where it is.
    pub fn without_engine(test: &str) -> Self {
        assert!(
            std::env::var_os("NEXTEST").is_some(),
            "each system test needs its own process: use `make test`, or cargo nextest run"
        );
        let outside = Cgroup::of_process(None).expect("this process has a cgroup");
        let base = Cgroup::root().expect("cgroup v2 is mounted");
        let name = format!("e2e-{test}");
        if let Ok(stale) = Cgroup::at(&base.path().join(&name)) {
            let _ = stale.kill();
            stale
                .remove()
                .expect("the cgroup of an earlier run is removed");
        }
        let root = base.make(&name).expect("the cgroup is made");
        Self {
            engine: None,
            program_cgroup: root.make("program").expect("the cgroup is made"),
            service_cgroup: root.make("service").expect("the cgroup is made"),
            root,
            outside,
            events: Vec::new(),
        }
    }

    /// The test's cgroup, which is the engine's scope.
    pub fn root(&self) -> &Cgroup {
        &self.root
    }

    /// The engine. Panics if the test has taken it.
    pub fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("the engine exists")
    }

    /// Moves this process to the cgroup for proxies. Sockets that it makes from now on are a proxy's.
    pub fn enter_service_cgroup(&self) {
        self.service_cgroup
            .add(std::process::id())
            .expect("the process is moved");
    }

    /// Moves this process out of the scope. Sockets that it makes from now on are outside of it.
    pub fn leave_scope(&self) {
        self.outside
            .add(std::process::id())
            .expect("the process is moved");
    }

    /// Adds a service of this name that must set records.
    pub fn service(&mut self, name: &str) -> RegisteredService {
        self.service_with_spec(&ServiceSpec::new(name))
    }

    /// Adds a service.
    pub fn service_with_spec(&mut self, spec: &ServiceSpec) -> RegisteredService {
        let engine = self.engine.as_mut().expect("the engine exists");
        engine
            .add_service(spec, &self.service_cgroup)
            .expect("the service is added")
    }

    /// Sets a policy that redirects every connection to these services, in order.
    pub fn redirect_all(&mut self, services: &[&RegisteredService]) {
        self.set_policy(services.iter().map(|service| redirect_tcp(service)));
    }

    /// Sets a policy that redirects every datagram to these services, in order.
    pub fn redirect_datagrams(&mut self, services: &[&RegisteredService]) {
        self.set_policy(services.iter().map(|service| redirect_udp(service)));
    }

    /// Sets a policy that consists of these redirects, in order.
    pub fn set_policy(&mut self, redirects: impl IntoIterator<Item = Redirect>) {
        self.commit(&in_order(redirects), &[]);
    }

    /// Commits a policy that consists of these filters and sublayers.
    pub fn commit(&mut self, filters: &[Filter], sublayers: &[Sublayer]) {
        for filter in filters {
            filter.check().expect("the filter is valid");
        }
        let committed = self.engine().commit(filters, sublayers);
        committed.expect("the policy is valid");
    }

    /// Starts a proxy that answers each connection with its original destination, and closes it.
    pub fn answer(&self, service: &RegisteredService) -> RunningProxy {
        answer(service)
    }

    /// Starts a proxy that answers each datagram with the same bytes.
    pub fn echo_datagrams(&self, service: &RegisteredService) -> RunningDatagramProxy {
        crate::datagram::echo(service)
    }

    /// Starts a proxy that relays datagrams to their original destination, with the records.
    pub fn relay_datagrams(&self, service: &RegisteredService) -> RunningDatagramProxy {
        crate::datagram::relay(service)
    }

    /// Starts a proxy that relays connections to their original destination, with the records.
    pub fn relay(&self, service: &RegisteredService) -> RunningProxy {
        relay(service)
    }

    /// Starts a proxy that calls this function for each connection, in a new thread.
    pub fn serve(
        &self,
        service: &RegisteredService,
        handle: impl Fn(TcpStream, Flow) -> io::Result<()> + Send + Sync + 'static,
    ) -> RunningProxy {
        serve(service, handle)
    }

    /// Starts the client program in the cgroup for clients. See `src/bin/client.rs`.
    pub fn client<T: AsRef<str>>(&self, arguments: &[T]) -> Client {
        Client::start(&self.program_cgroup, &cargo_bin("client"), arguments)
    }

    /// Starts the client program in this cgroup.
    pub fn client_in<T: AsRef<str>>(&self, cgroup: &Cgroup, arguments: &[T]) -> Client {
        Client::start(cgroup, &cargo_bin("client"), arguments)
    }

    /// Starts a proxy as a separate process, in the cgroup for proxies. See `src/bin/proxy.rs`.
    pub fn proxy(&self, service: &RegisteredService, kind: &str) -> Process {
        Process::proxy(&self.service_cgroup, Some(service), &[kind])
    }

    /// The same as [`Host::proxy`], for a kind of proxy that listens at a given address.
    pub fn proxy_at(
        &self,
        service: &RegisteredService,
        kind: &str,
        address: SocketAddr,
    ) -> Process {
        Process::proxy(
            &self.service_cgroup,
            Some(service),
            &[kind, &address.to_string()],
        )
    }

    /// Starts a legacy proxy as a separate process, in the cgroup for proxies.
    pub fn legacy_proxy(&self, kind: &str) -> Process {
        Process::proxy(&self.service_cgroup, None, &[kind])
    }

    /// Starts a proxy that answers like [`Host::answer`]. It is asynchronous and stores no flows,
    /// for many connections at once.
    pub fn answer_storm(&self, service: &RegisteredService) {
        storm(service, false);
    }

    /// The same as [`Host::answer_storm`], with the answer that this function returns.
    pub fn answer_storm_with(&self, service: &RegisteredService, answer: fn(&Flow) -> String) {
        storm_with(service, false, answer);
    }

    /// Starts a proxy that relays like [`Host::relay`]. It is asynchronous and stores no flows, for
    /// many connections at once.
    pub fn relay_storm(&self, service: &RegisteredService) {
        storm(service, true);
    }

    /// Starts any program, in the cgroup for clients.
    pub fn run<T: AsRef<str>>(&self, arguments: &[T]) -> Client {
        let mut all = vec!["exec".to_owned(), "--".to_owned()];
        all.extend(arguments.iter().map(|one| one.as_ref().to_owned()));
        self.client(&all)
    }

    /// Connects a client to this address, and reads until the end. Returns the client's report.
    pub fn connect(&self, to: &str) -> serde_json::Value {
        self.client(&["connect", to]).json()
    }

    /// The same for a [`crate::Origin`], which sends `origin` and then the text back.
    pub fn connect_and_send(&self, to: &str, text: &str) -> serde_json::Value {
        self.client(&["connect", to, "--send", text]).json()
    }

    /// Accepts a connection of a client that no filter redirects. Returns the accepted socket and the
    /// client.
    pub fn direct_connection(&self) -> (TcpStream, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let client = self.client(&["connect", &address.to_string()]);
        (listener.accept().expect("the client connects").0, client)
    }

    /// The value of one counter.
    pub fn count(&self, counter: Counter) -> u64 {
        let engine = self.engine.as_ref().expect("the engine exists");
        let counters = engine.counters().expect("the counters are readable");
        counters.value(counter)
    }

    /// Number of flows that are connecting, or have a socket.
    pub fn flow_count(&self) -> u64 {
        let engine = self.engine.as_ref().expect("the engine exists");
        engine.counters().expect("the counters are readable").flows
    }

    /// Waits for an event of this kind with this destination.
    pub fn await_event(&mut self, kind: EventKind, destination: &str) -> Event {
        let destination: SocketAddr = destination.parse().expect("an address and a port");
        let mut found = None;
        wait::until(&format!("{kind:?} is reported"), || {
            let engine = self.engine.as_ref().expect("the engine exists");
            let events = engine.events(Duration::from_millis(1));
            self.events.extend(events.expect("events are readable"));
            found = self
                .events
                .iter()
                .find(|event| event.kind == kind && event.destination == destination)
                .cloned();
            found.is_some()
        });
        found.expect("the event was found")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.engine.take());
        self.leave_scope();
        let _ = self.root.kill();
        if let Err(error) = self.root.remove() {
            eprintln!("cannot remove the test's cgroup: {error}");
        }
    }
}
