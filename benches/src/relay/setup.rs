//! Sets up a contestant: proxies that listen, and a redirector that diverts to them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Cgroup, Config, Engine, RegisteredService, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};
use tempfile::TempDir;

use super::contestant::Contestant;
use super::proxy::{self, ProxyProcess};
use super::usage::CpuReading;
use crate::hierarchy::Hierarchy;
use crate::load::ORIGIN;
use crate::netfilter;

/// The address on which the proxies of peers listen.
const PEER_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9999);
/// The nftables rules that divert everything to the origin, except what the proxy sends, to
/// [`PEER_ADDRESS`].
const RULES: &str = include_str!("../../peers/relay.nft");

/// A contestant in the namespace of this process, in its own cgroups.
pub(crate) struct RelaySetup {
    /// The address that clients connect to.
    pub(crate) destination: SocketAddrV4,
    contestant: Contestant,
    /// Sidetrack's engine, if it is the redirector.
    engine: Option<Engine>,
    proxies: Vec<ProxyProcess>,
    // The last field, so that it is dropped last: a cgroup can only be removed when its processes
    // have ended.
    hierarchy: Hierarchy,
}

impl RelaySetup {
    /// Starts the proxies and the redirector. The origin's sockets have to be created in
    /// [`RelaySetup::as_origin`].
    pub(crate) fn open(contestant: Contestant) -> Result<Self> {
        let mut setup = Self {
            destination: match contestant {
                Contestant::TwoHops => PEER_ADDRESS,
                _ => ORIGIN,
            },
            contestant,
            engine: None,
            proxies: Vec::new(),
            hierarchy: Hierarchy::make()?,
        };
        setup.start_peer()?;
        match contestant {
            Contestant::Sidetrack => setup.start_sidetrack(1)?,
            Contestant::Chain(services) => setup.start_sidetrack(services)?,
            Contestant::HaproxyBehind => setup.adopt()?,
            contestant if !contestant.has_redirector() => {}
            _ => netfilter::load(RULES)?,
        }
        setup.hierarchy.enter_program()?;
        Ok(setup)
    }

    /// Runs `make` outside the scope, so that the sockets that it creates are like those of a
    /// remote origin.
    pub(crate) fn as_origin<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.hierarchy.enter_outside()?;
        let made = make();
        self.hierarchy.enter_program()?;
        made
    }

    fn start_peer(&mut self) -> Result<()> {
        let folder = folder()?;
        let Some(command) = proxy::command(self.contestant, folder.path())? else {
            return Ok(());
        };
        // A proxy that the engine adopts needs the service's cgroup for itself.
        let mut process = ProxyProcess::start(&command, folder, self.hierarchy.service())?;
        let contestant = self.contestant;
        process.wait(|| proxy::listens(contestant, PEER_ADDRESS.port()))?;
        self.proxies.push(process);
        Ok(())
    }

    fn start_sidetrack(&mut self, services: u32) -> Result<()> {
        let mut engine = self.load()?;
        let mut redirects = Vec::new();
        for number in 1..=services {
            let name = format!("inspect{number}");
            let cgroup = self.hierarchy.service().make(&name)?;
            let spec = ServiceSpec {
                owns_cgroup: true,
                ..ServiceSpec::new(&name)
            };
            let service = engine.add_service(&spec, &cgroup)?;
            let command = sidetrack_proxy(&service, &name)?;
            let mut process = ProxyProcess::start(&command, folder()?, &cgroup)?;
            process.wait(|| {
                let listeners = engine.listeners(&service)?;
                Ok(listeners.tcp() != (0, 0) && listeners.udp() != (0, 0))
            })?;
            self.proxies.push(process);
            redirects.push(Redirect::tcp(service.key));
            redirects.push(Redirect::udp(service.key));
        }
        engine.commit(&in_order(redirects), &[])?;
        self.engine = Some(engine);
        Ok(())
    }

    fn adopt(&mut self) -> Result<()> {
        let mut engine = self.load()?;
        let service = engine.adopt_service("haproxy", PEER_ADDRESS.into())?;
        engine.commit(&in_order([Redirect::tcp(service.key)]), &[])?;
        self.engine = Some(engine);
        Ok(())
    }

    fn load(&self) -> Result<Engine> {
        let engine = Engine::open(&self.hierarchy.scope, Config::default())?;
        Ok(engine.load()?.attach()?)
    }

    /// Reads the CPU time of the proxies and of the machine.
    pub(crate) fn cpu(&self) -> Result<CpuReading> {
        CpuReading::take(self.proxy_cgroup())
    }

    /// The cgroup with all processes of the proxies.
    pub(crate) fn proxy_cgroup(&self) -> &Cgroup {
        self.hierarchy.service()
    }

    /// Fails unless the counters show exactly `made` connections on this path, and the origin
    /// accepted as many.
    pub(crate) fn check(&self, made: u64, accepted: u64) -> Result<()> {
        let expect = |what: &str, counted: u64, expected: u64| {
            ensure!(
                counted == expected,
                "{made} connections were made, but {what} says {counted}, not {expected}: this \
                 round measured something else"
            );
            Ok(())
        };
        expect("the origin", accepted, made)?;
        if let Some(engine) = &self.engine {
            let counters = engine.counters()?;
            let hops = match self.contestant {
                Contestant::Chain(services) => u64::from(services),
                _ => 1,
            };
            expect(
                "Redirected",
                counters.value(Counter::Redirected),
                made * hops,
            )?;
            expect(
                "HandedOver",
                counters.value(Counter::HandedOver),
                made * hops,
            )?;
            if self.contestant != Contestant::HaproxyBehind {
                expect("Queried", counters.value(Counter::Queried), made * hops)?;
                expect("Linked", counters.value(Counter::Linked), made * hops)?;
            } else {
                let queried = counters.value(Counter::Queried);
                ensure!(
                    queried >= made,
                    "HAProxy queried only {queried} of {made} connections"
                );
            }
        } else if self.contestant.has_redirector() {
            expect("the rule's counter", netfilter::redirected()?, made)?;
        }
        Ok(())
    }
}

impl RelaySetup {
    /// Fails unless the counters show exactly `made` UDP flows on this path.
    pub(crate) fn check_flows(&self, made: u64) -> Result<()> {
        let counted = match &self.engine {
            Some(engine) => engine.counters()?.value(Counter::Redirected),
            None if !self.contestant.has_redirector() => return Ok(()), // nothing could divert them
            None => netfilter::redirected()?,
        };
        ensure!(
            counted == made,
            "{made} flows were made, but {counted} were redirected: this round measured something else"
        );
        Ok(())
    }
}

fn folder() -> Result<TempDir> {
    tempfile::tempdir().context("create a folder")
}

/// The command `sidetrack proxy`; `sidetrack` lies next to this program.
fn sidetrack_proxy(service: &RegisteredService, name: &str) -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program.with_file_name("sidetrack"));
    command
        .args(["proxy", "--json"])
        .env(LISTEN_VARIABLE, service.credentials_hex())
        .env(NAME_VARIABLE, name);
    Ok(command)
}
