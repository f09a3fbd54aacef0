//! `sidetrack run`: runs a command whose connections are redirected, and leaves nothing behind.
//!
//! The run's cgroup is the scope of a separate engine. The proxies are started first, then the
//! policy comes into force, then the command is started.

mod command;
mod event;
mod policy;
mod proxies;
mod report;
mod signals;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sidetrack_engine::{Config, Engine, Error};

use crate::args;
use crate::installation::Installation;
use crate::run_cgroup::RunCgroup;
use crate::via::{self, Via};
use command::Program;
use event::{EventSender, RunEvent};
use proxies::Proxies;
use report::Report;

/// Limit of flows of one run. `SIDETRACK_FLOWS_MAX` in bpf/sidetrack.h says what happens when it is
/// reached.
const FLOWS_MAX: u32 = 16_384;

pub(crate) fn run(options: &args::RunArgs) -> Result<ExitCode> {
    let program = command::resolve(&options.command)?;
    let vias = match options.via.as_slice() {
        [] => via::named(&[Via::Inspect(None)]),
        vias => via::named(vias),
    };
    let mut report = Report::new(options, &vias)?;
    sidetrack_engine::host::require()?;
    let (sender, events) = mpsc::channel();
    let sender = EventSender::new(sender)?;
    signals::forward(&sender)?;

    let run_cgroup = RunCgroup::create()?;
    let engine =
        Engine::open(&run_cgroup.root, config()).and_then(|engine| engine.load()?.attach());
    let mut engine = engine.map_err(engine_error)?;
    let mut proxies = Proxies::start(&vias, options, &run_cgroup, &mut engine, &sender)?;
    proxies.await_listeners(&engine, &events)?;
    let routes = proxies.routes(&engine)?;
    let redirects = policy::redirects(&routes, options.on_absent);
    report.set_routes(&routes);
    let blocks = policy::blocks(options.rules.quic);
    engine.commit(redirects.iter().chain(&blocks), &[])?;
    let mut program = Program::start(&program, &options.command, &run_cgroup.program, &sender)?;

    let code = wait_for_end(
        &mut program,
        &mut proxies,
        &engine,
        &mut report,
        &sender,
        &events,
    )?;
    proxies.stop();
    report.drain(&events);
    report.summary(&engine.counters()?, run_cgroup.program.is_populated());
    drop(engine);
    drop(run_cgroup);
    Ok(code)
}

/// Converts an error of the engine. If sidetrackd is attached already, the message says so, and
/// what to do.
fn engine_error(error: Error) -> anyhow::Error {
    let Error::AlreadyAttached(path) = &error else {
        return error.into();
    };
    match Installation::find(None) {
        Ok(daemon) if daemon.is_running() || daemon.is_pinned() => anyhow!(
            "sidetrackd already classifies the connections in {} or around it, and two engines would \
             redirect each connection twice; redirect with the policy of sidetrackd (`sidetrack \
             apply`), or stop it and use `sidetrack uninstall`",
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

/// Processes events until the command ends: passes signals on, prints flows, and reports what went
/// wrong.
fn wait_for_end(
    program: &mut Program,
    proxies: &mut Proxies,
    engine: &Engine,
    report: &mut Report,
    sender: &EventSender,
    events: &Receiver<RunEvent>,
) -> Result<ExitCode> {
    loop {
        wait(engine, sender)?;
        report_kernel_events(engine, report)?;
        for event in events.try_iter() {
            match event {
                RunEvent::Flow(line) => report.add(*line),
                RunEvent::Signal(number) => program.signal(number),
                RunEvent::ProgramEnded(status) => {
                    report_kernel_events(engine, report)?; // those of its last moment
                    return Ok(command::exit_code(status));
                }
                RunEvent::ProxyEnded(index, status) => {
                    report.warn(&proxies.note_end(index, status));
                }
            }
        }
    }
}

/// Reports the kernel events since the last call.
fn report_kernel_events(engine: &Engine, report: &mut Report) -> Result<()> {
    for event in engine.events(Duration::ZERO)? {
        let service = engine.service_name(event.service);
        report.add_kernel_event(&event, service.unwrap_or("a proxy"));
    }
    report.add_lost_events(engine.events_lost()?);
    Ok(())
}

/// Waits for an event of the kernel or of another thread.
fn wait(engine: &Engine, sender: &EventSender) -> Result<()> {
    let mut descriptors = [
        PollFd::from_borrowed_fd(engine.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(sender.as_fd(), PollFlags::IN),
    ];
    match poll(&mut descriptors, None) {
        Ok(_) | Err(Errno::INTR) => sender.clear_wakeup(),
        Err(error) => return Err(error).context("cannot wait for the command"),
    }
    Ok(())
}
