//! Sets up a contestant: proxies that listen, and a redirector that diverts to them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context as _, Result};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE};
use sidetrack_engine::{Cgroup, Config, ConnectMode, Engine, RegisteredService, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};
use tempfile::TempDir;

use super::contestant::Contestant;
use super::held::HeldClients;
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
    pub(super) contestant: Contestant,
    /// Sidetrack's engine, if it is the redirector.
    pub(super) engine: Option<Engine>,
    /// What goes through the proxies while a bystander is measured.
    held: Option<HeldClients>,
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
            held: None,
            proxies: Vec::new(),
            hierarchy: Hierarchy::make()?,
        };
        setup.start_peer()?;
        match contestant {
            contestant if contestant.services() > 0 => setup.start_sidetrack()?,
            Contestant::HaproxyBehind => setup.adopt()?,
            contestant if !contestant.has_redirector() => {}
            _ => netfilter::load(RULES)?,
        }
        setup.hierarchy.enter_program()?;
        if let Some(engine) = &setup.engine
            && contestant.is_bystander()
        {
            setup.held = Some(HeldClients::connect(engine)?);
        }
        setup.enter_clients()?;
        Ok(setup)
    }

    /// Runs `make` outside the scope, so that the sockets that it creates are like those of a
    /// remote origin.
    pub(crate) fn as_origin<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.hierarchy.enter_outside()?;
        let made = make();
        self.enter_clients()?;
        made
    }

    /// Moves this process to where the clients are whose traffic is measured.
    fn enter_clients(&self) -> Result<()> {
        match self.contestant.is_bystander() {
            true => self.hierarchy.enter_outside(),
            false => self.hierarchy.enter_program(),
        }
    }

    /// Whether a client is accepted before the origin is asked.
    pub(crate) fn accepts_first(&self) -> bool {
        self.contestant.has_redirector() && self.contestant.connect_mode() == ConnectMode::Accepted
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

    fn start_sidetrack(&mut self) -> Result<()> {
        let mut engine = self.load()?;
        let mut redirects = Vec::new();
        for number in 1..=self.contestant.services() {
            let name = format!("inspect{number}");
            let cgroup = self.hierarchy.service().make(&name)?;
            let spec = ServiceSpec {
                connect: self.contestant.connect_mode(),
                owns_cgroup: true,
                ..ServiceSpec::new(&name)
            };
            let service = engine.add_service(&spec, &cgroup)?;
            let command = sidetrack_proxy(&mut engine, &service, &name, &cgroup)?;
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
}

fn folder() -> Result<TempDir> {
    tempfile::tempdir().context("create a folder")
}

/// The command `sidetrack proxy`; `sidetrack` lies next to this program. A proxy that pends is started by
/// `sidetrack launch`, which hands it what it needs for that, as in `sidetrack run`.
fn sidetrack_proxy(
    engine: &mut Engine,
    service: &RegisteredService,
    name: &str,
    cgroup: &Cgroup,
) -> Result<Command> {
    let program = std::env::current_exe().context("find this program")?;
    let program = program.with_file_name("sidetrack");
    let mut command = Command::new(&program);
    let mut connect = "accepted";
    if let Some(ring) = engine.ring(service.number)? {
        let senders = cgroup.make("sender")?;
        engine.attach_sender(&senders)?;
        command.arg("launch").arg("--cgroup").arg(cgroup.path());
        command.args(["--ring", &ring.to_string()]);
        command.arg("--sender-cgroup").arg(senders.path());
        command.arg("--").arg(&program);
        connect = "pended";
    }
    command
        .args(["proxy", "--json", "--connect", connect])
        .env(LISTEN_VARIABLE, service.credentials_hex())
        .env(NAME_VARIABLE, name);
    Ok(command)
}
