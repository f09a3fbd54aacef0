//! A contestant, set up: proxies that listen, and a redirector that leads to them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Cgroup, Config, Engine, Filter, Service, ServiceSpec};
use tempfile::TempDir;

use super::contestant::Contestant;
use super::peer::{self, Peer};
use super::usage::Cpu;
use crate::hierarchy::Hierarchy;
use crate::load::ORIGIN;
use crate::netfilter;

/// Where peers listen.
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9999);
/// The origin is of the host's own addresses, in the scope's cgroup or not: everything goes on to it.
const RULES: &str = include_str!("../../peers/relay.nft");

/// A contestant in this process's namespace and cgroups.
pub(crate) struct Arena {
    /// Where clients connect to.
    pub(crate) destination: SocketAddrV4,
    contestant: Contestant,
    engine: Option<Engine>,
    peers: Vec<Peer>,
    // Last: a cgroup is removed when its processes are gone.
    hierarchy: Hierarchy,
}

impl Arena {
    /// Sets it up. Sockets of the origin are to be made first of all in [`Arena::as_origin`].
    pub(crate) fn open(contestant: Contestant) -> Result<Self> {
        let mut arena = Self {
            destination: match contestant {
                Contestant::TwoHops => PEER,
                _ => ORIGIN,
            },
            contestant,
            engine: None,
            peers: Vec::new(),
            hierarchy: Hierarchy::make()?,
        };
        arena.start_peer()?;
        match contestant {
            Contestant::Sidetrack => arena.start_own(1)?,
            Contestant::Chain(services) => arena.start_own(services)?,
            Contestant::HaproxyBehind => arena.adopt()?,
            contestant if contestant.is_straight() => {}
            _ => netfilter::load(RULES)?,
        }
        arena.hierarchy.enter_program()?;
        Ok(arena)
    }

    /// Makes sockets of the origin's: outside the scope, as origins are elsewhere.
    pub(crate) fn as_origin<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.hierarchy.enter_outside()?;
        let made = make();
        self.hierarchy.enter_program()?;
        made
    }

    fn start_peer(&mut self) -> Result<()> {
        let folder = folder()?;
        let Some(command) = peer::command(self.contestant, folder.path())? else {
            return Ok(());
        };
        // A proxy that is to be adopted has the service's cgroup for itself.
        let mut peer = Peer::start(&command, folder, self.hierarchy.service())?;
        let contestant = self.contestant;
        peer.wait(|| peer::listens(contestant, PEER.port()))?;
        self.peers.push(peer);
        Ok(())
    }

    fn start_own(&mut self, services: u32) -> Result<()> {
        let mut engine = self.load()?;
        let mut filters = Vec::new();
        for number in 1..=services {
            let name = format!("inspect{number}");
            let home = self.hierarchy.service().make(&name)?;
            let spec = ServiceSpec {
                owns_cgroup: true,
                ..ServiceSpec::new(&name)
            };
            let service = engine.add_service(&spec, &home)?;
            let mut peer = Peer::start(&own_proxy(&service, &name)?, folder()?, &home)?;
            peer.wait(|| {
                let datagrams = engine.datagram_listeners(&service)?;
                Ok(engine.listeners(&service)? != (0, 0) && datagrams != (0, 0))
            })?;
            self.peers.push(peer);
            filters.push(Filter::redirect_all(service.number));
            filters.push(Filter::redirect_datagrams(service.number));
        }
        engine.set_policy(&filters)?;
        self.engine = Some(engine);
        Ok(())
    }

    fn adopt(&mut self) -> Result<()> {
        let mut engine = self.load()?;
        let service = engine.adopt_service("haproxy", PEER.into())?;
        engine.set_policy(&[Filter::redirect_all(service.number)])?;
        self.engine = Some(engine);
        Ok(())
    }

    fn load(&self) -> Result<Engine> {
        let engine = Engine::open(&self.hierarchy.scope, Config::default())?;
        Ok(engine.load()?.attach()?)
    }

    /// A reading of the processors.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Cpu::read(self.proxies())
    }

    /// Where all the proxies' processes are.
    pub(crate) fn proxies(&self) -> &Cgroup {
        self.hierarchy.service()
    }

    /// Fails unless exactly `made` connections, or flows, went this way and `accepted` arrived.
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
                ensure!(queried >= made, "HAProxy asked for {queried} of {made}");
            }
        } else if !self.contestant.is_straight() {
            expect("the rule's counter", netfilter::redirected()?, made)?;
        }
        Ok(())
    }
}

impl Arena {
    /// Fails unless exactly so many flows of datagrams went this way.
    pub(crate) fn check_flows(&self, made: u64) -> Result<()> {
        let counted = match &self.engine {
            Some(engine) => engine.counters()?.value(Counter::Redirected),
            None if self.contestant.is_straight() => return Ok(()), // nothing could have diverted them
            None => netfilter::redirected()?,
        };
        ensure!(
            counted == made,
            "{made} flows were made, but {counted} redirected: this round measured something else"
        );
        Ok(())
    }
}

fn folder() -> Result<TempDir> {
    tempfile::tempdir().context("make a folder")
}

/// `sidetrack proxy`, beside this program.
fn own_proxy(service: &Service, name: &str) -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program.with_file_name("sidetrack"));
    command
        .args(["proxy", "--json"])
        .env(LISTEN_VARIABLE, service.credentials_hex())
        .env(NAME_VARIABLE, name);
    Ok(command)
}
