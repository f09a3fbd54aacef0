//! `sidetrack run`: a scope, the proxies, the command; then nothing is left of it.

mod command;
mod flows;
mod policy;
mod proxies;
mod signals;
mod wake;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sidetrack_engine::{Config, Engine, Error};

use crate::args;
use crate::installed::Installed;
use crate::scope::Scope;
use crate::via::{self, Via};
use command::Program;
use flows::Flows;
use proxies::Proxies;
use wake::{Happening, Wake};

/// Flows of one run; see `SIDETRACK_FLOWS_MAX` for what happens beyond.
const FLOWS_MAX: u32 = 16_384;

pub(crate) fn run(options: &args::Run) -> Result<ExitCode> {
    let program = command::resolve(&options.command)?;
    let vias = match options.via.as_slice() {
        [] => via::named(&[Via::Inspect(None)]),
        vias => via::named(vias),
    };
    let mut flows = Flows::new(options, &vias)?;
    sidetrack_engine::host::require()?;
    let (sender, happenings) = mpsc::channel();
    let wake = Wake::new(sender)?;
    signals::forward(&wake)?;

    let scope = Scope::make()?;
    let engine = Engine::open(&scope.root, config()).and_then(|engine| engine.load()?.attach());
    let mut engine = engine.map_err(refused)?;
    let mut proxies = Proxies::start(&vias, options, &scope, &mut engine, &wake)?;
    proxies.await_listeners(&engine, &happenings)?;
    let takers = proxies.takers(&engine)?;
    let filters = policy::filters(&takers, options.on_absent);
    flows.expect_deaf(&takers);
    engine.set_policy_with(&filters, &policy::blocks(options.rules.quic))?;
    let mut program = Program::start(&program, &options.command, &scope.program, &wake)?;

    let code = attend(
        &mut program,
        &mut proxies,
        &engine,
        &mut flows,
        &wake,
        &happenings,
    )?;
    proxies.stop();
    flows.drain(&happenings);
    flows.summary(&engine.counters()?, scope.program.is_populated());
    drop(engine);
    drop(scope);
    Ok(code)
}

/// Who else is there, and what to do about it.
fn refused(error: Error) -> anyhow::Error {
    let Error::AlreadyAttached(path) = &error else {
        return error.into();
    };
    match Installed::find(None) {
        Ok(daemon) if daemon.is_running() || daemon.is_pinned() => anyhow!(
            "sidetrackd judges the connections of {} or around it, and two would divert each twice; \
             redirect by its policy (`sidetrack apply`), or stop it and use `sidetrack uninstall`",
            path.display()
        ),
        _ => error.into(),
    }
}

fn config() -> Config {
    Config {
        flows_max: FLOWS_MAX,
        ..Config::default()
    }
}

/// Until the command ends: passes signals on, prints flows, tells what went wrong.
fn attend(
    program: &mut Program,
    proxies: &mut Proxies,
    engine: &Engine,
    flows: &mut Flows,
    wake: &Wake,
    happenings: &Receiver<Happening>,
) -> Result<ExitCode> {
    loop {
        wait(engine, wake)?;
        report(engine, flows)?;
        for happening in happenings.try_iter() {
            match happening {
                Happening::Flow(line) => flows.add(*line),
                Happening::Signal(number) => program.signal(number),
                Happening::ProgramEnded(status) => {
                    report(engine, flows)?; // of its last moment
                    return Ok(command::exit_code(status));
                }
                Happening::ProxyEnded(index, status) => {
                    flows.warn(&proxies.ended(index, status));
                }
            }
        }
    }
}

/// Tells what the kernel has refused since the last time.
fn report(engine: &Engine, flows: &mut Flows) -> Result<()> {
    for event in engine.events(Duration::ZERO)? {
        let service = engine.service_name(event.service);
        flows.report(&event, service.unwrap_or("a proxy"));
    }
    Ok(())
}

fn wait(engine: &Engine, wake: &Wake) -> Result<()> {
    let mut waited = [
        PollFd::from_borrowed_fd(engine.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
    ];
    match poll(&mut waited, None) {
        Ok(_) | Err(Errno::INTR) => wake.clear(),
        Err(error) => return Err(error).context("wait for the command"),
    }
    Ok(())
}
