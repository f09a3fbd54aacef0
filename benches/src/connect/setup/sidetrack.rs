//! Sidetrack: an engine that the worker attaches, with one service.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context as _, Result};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine, RegisteredService, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};
use sidetrack_policy::{Filter, RedirectContext};

use super::{ConnectSetup, PORT, PROBE, expect, listen, probe, remote_destination};
use crate::{hierarchy::Hierarchy, sys};

/// Prefixes that contain no destination of a [`Bystander`]; the last one contains the probe's.
const UNMATCHED: [&str; 4] = [
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:db8::/32",
    "192.0.2.0/24",
];

/// Sidetrack redirects every connection, with an automatic context.
pub(crate) struct Redirected {
    engine: Engine,
    listener: TcpListener,
    _hierarchy: Hierarchy,
}

/// An engine is attached, and does not redirect the connections that are measured.
pub(crate) struct Bystander {
    engine: Engine,
    listener: TcpListener,
    _proxy: TcpListener,
    _hierarchy: Hierarchy,
}

impl Redirected {
    /// Connections arrive at the listener of the service; the client is a program in the scope.
    pub(crate) fn open() -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        let (mut engine, service, listener) = start(&hierarchy)?;
        let all = Redirect::tcp(service.key).context(RedirectContext::Auto);
        engine.commit(&in_order([all]), &[])?;
        hierarchy.enter_program()?;
        Ok(Self {
            engine,
            listener,
            _hierarchy: hierarchy,
        })
    }
}

impl Bystander {
    /// The client is in the scope. The origin is outside, as if it were on another host.
    pub(crate) fn open_in_scope() -> Result<Self> {
        Self::open(Hierarchy::enter_program)
    }

    /// The client and the origin are outside the scope.
    pub(crate) fn open_outside() -> Result<Self> {
        Self::open(Hierarchy::enter_outside)
    }

    /// The client is in the scope, under a policy of this many filters.
    pub(crate) fn open_under(filters: u32) -> Result<Self> {
        Self::open_with(Hierarchy::enter_program, |engine, service| {
            engine.commit(&super::policy::filters(filters, service.key)?, &[])?;
            Ok(())
        })
    }

    fn open(enter: impl Fn(&Hierarchy) -> Result<()>) -> Result<Self> {
        Self::open_with(enter, |engine, service| {
            engine.commit(&filters_for_others(service)?, &[])?;
            Ok(())
        })
    }

    fn open_with(
        enter: impl Fn(&Hierarchy) -> Result<()>,
        set_policy: impl Fn(&mut Engine, &RegisteredService) -> Result<()>,
    ) -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        let (mut engine, service, proxy) = start(&hierarchy)?;
        set_policy(&mut engine, &service)?;
        hierarchy.enter_program()?;
        let accepted = probe(&proxy)?;
        let flow = sidetrack::query(&accepted).context("the probe was not redirected")?;
        anyhow::ensure!(
            flow.original_destination() == PROBE.into(),
            "the original destination of the probe is wrong"
        );
        hierarchy.enter_outside()?;
        let listener = listen(PORT, None)?;
        enter(&hierarchy)?;
        Ok(Self {
            engine,
            listener,
            _proxy: proxy,
            _hierarchy: hierarchy,
        })
    }
}

impl ConnectSetup for Redirected {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn destination(&self, number: u32) -> SocketAddrV4 {
        remote_destination(number)
    }

    fn query(&self, accepted: &TcpStream) -> Result<Option<SocketAddr>> {
        Ok(Some(sidetrack::query(accepted)?.original_destination()))
    }

    fn check(&self, made: u64) -> Result<()> {
        check(&self.engine, made)
    }
}

impl ConnectSetup for Bystander {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn check(&self, _made: u64) -> Result<()> {
        check(&self.engine, 1) // only the probe
    }
}

/// Attaches an engine with one service, and returns the service's listener. It is not a listener of
/// the SDK: the `accept` of the SDK also polls and queries, and that of the peers does not.
pub(crate) fn start(hierarchy: &Hierarchy) -> Result<(Engine, RegisteredService, TcpListener)> {
    let mut engine = Engine::open(&hierarchy.scope, Config::default())?
        .load()?
        .attach()?;
    let service = engine.add_service(&ServiceSpec::new("bench"), hierarchy.service())?;
    hierarchy.enter_service()?;
    let listener = listen(0, Some(b"lo"))?;
    sys::mark_listener(listener.as_fd(), service.credentials())
        .context("mark the listener as one of the service")?;
    Ok((engine, service, listener))
}

fn filters_for_others(service: &RegisteredService) -> Result<Vec<Filter>> {
    let redirects: Result<Vec<_>, _> = UNMATCHED
        .iter()
        .map(|prefix| Ok(Redirect::tcp(service.key).remote(prefix.parse()?)))
        .collect();
    redirects.map(in_order)
}

fn check(engine: &Engine, made: u64) -> Result<()> {
    let counters = engine.counters()?;
    for counter in [Counter::Redirected, Counter::HandedOver, Counter::Queried] {
        expect(&format!("{counter:?}"), counters.value(counter), made)?;
    }
    Ok(())
}
