//! `sidetrack run`: runs a command whose connections are redirected, and leaves nothing behind.
//!
//! The run's cgroup is the scope of a separate engine. The proxies are started first, then the
//! policy comes into force, then the command is started.

mod command;
mod departures;
mod event;
mod policy;
mod proxies;
mod report;
mod signals;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Config, Engine, Error};

use crate::args;
use crate::installation::Installation;
use crate::run_cgroup::RunCgroup;
use crate::user::User;
use crate::via::{self, Via};
use command::Program;
use departures::Departures;
use event::{EventSender, RunEvent};
use proxies::Proxies;
use report::Report;

/// Limit of flows of one run. `SIDETRACK_FLOWS_MAX` in bpf/sidetrack.h says what happens when it is
/// reached.
const FLOWS_MAX: u32 = 16_384;

/// The group whose members `--proxy-user` may name under sudo.
const PROXY_GROUP: &str = "sidetrack-proxy";

/// The users as whom a run starts its processes. `None` is this process's own, mostly root.
struct Users {
    /// The user of the command.
    command: Option<User>,
    /// The user of the proxies.
    proxies: Option<User>,
}

pub(crate) fn run(options: &args::RunArgs) -> Result<ExitCode> {
    let program = command::resolve(&options.command)?;
    let vias = match options.via.as_slice() {
        [] => via::named(&[Via::Inspect(None)]),
        vias => via::named(vias),
    };
    check_rules(options, &vias)?;
    let users = Users::of(options)?;
    let json = open_json(options.json.as_deref(), users.command.as_ref())?;
    let mut report = Report::new(options.quiet, &vias, json);
    sidetrack_engine::host::require()?;
    let (sender, events) = mpsc::channel();
    let sender = EventSender::new(sender)?;
    signals::forward(&sender)?;

    let run_cgroup = make_cgroup(&users, &report)?;
    let mut engine = start_engine(&run_cgroup)?;
    let mut departures = Departures::watch(&run_cgroup.program, options.strict, &report)?;
    // Dropped before the engine: what is left in it ends while it is inspected.
    let run_cgroup = run_cgroup;
    let user = users.proxies.as_ref();
    let mut proxies = Proxies::start(&vias, options, user, &run_cgroup, &mut engine, &sender)?;
    proxies.await_listeners(&engine, &events)?;
    put_in_force(options, &proxies, &mut engine, &mut report)?;
    let (cgroup, user) = (&run_cgroup.program, users.command.as_ref());
    let mut program = Program::start(&program, &options.command, cgroup, user, &sender)?;

    let code = wait_for_end(
        &mut program,
        &mut proxies,
        &engine,
        &mut departures,
        &mut report,
        &sender,
        &events,
    )?;
    let lost_with_proxy = engine.counters()?.value(Counter::LostWithProxy);
    proxies.stop();
    report.drain(&events);
    let has_background_processes = run_cgroup.program.is_populated();
    report.summary(
        &engine.counters()?,
        lost_with_proxy,
        has_background_processes,
    );
    departures.summary(&report);
    drop(run_cgroup);
    drop(engine);
    Ok(code)
}

/// Makes the cgroups of the run, and reports the limits that do not hold there.
fn make_cgroup(users: &Users, report: &Report) -> Result<RunCgroup> {
    let run_cgroup = RunCgroup::create(users.command.as_ref()).map_err(engine_error)?;
    for limit in &run_cgroup.lost_limits {
        report.warn(&limit.to_string());
    }
    Ok(run_cgroup)
}

/// Attaches an engine to the run's cgroup. It redirects nothing yet.
fn start_engine(run_cgroup: &RunCgroup) -> Result<Engine> {
    Engine::open(&run_cgroup.root, config())
        .and_then(|engine| engine.for_connects().load()?.attach())
        .map_err(|error| engine_error(error.into()))
}

impl Users {
    fn of(options: &args::RunArgs) -> Result<Self> {
        let command = User::invoking()?;
        let proxies = match &options.proxy_user {
            Some(name) => Some(proxy_user(name, command.is_some())?),
            None => command.clone(),
        };
        Ok(Self { command, proxies })
    }
}

/// Opens the file of `--json` as the user of the command, who may have put anything in its place. `-` is
/// standard output.
fn open_json(path: Option<&Path>, user: Option<&User>) -> Result<Option<Box<dyn Write>>> {
    let Some(path) = path else {
        return Ok(None);
    };
    if path == Path::new("-") {
        return Ok(Some(Box::new(io::stdout())));
    }
    let file = match user {
        Some(user) => user.create_file(path),
        None => File::create(path),
    };
    let file = file.with_context(|| match user {
        Some(user) => format!("{} cannot write {}", user.name.display(), path.display()),
        None => format!("cannot write {}", path.display()),
    })?;
    Ok(Some(Box::new(file)))
}

/// Puts the policy of the run in force. All proxies must listen.
fn put_in_force(
    options: &args::RunArgs,
    proxies: &Proxies,
    engine: &mut Engine,
    report: &mut Report,
) -> Result<()> {
    let routes = proxies.routes(engine)?;
    let redirects = policy::redirects(&routes, options.on_absent);
    report.set_routes(&routes);
    let blocks = policy::blocks(options.rules.quic);
    engine.commit(redirects.iter().chain(&blocks), &[])?;
    Ok(())
}

/// Refuses rules that no proxy of the chain would apply.
fn check_rules(options: &args::RunArgs, vias: &[(String, Via)]) -> Result<()> {
    let is_built_in = |(_, via): &(String, Via)| matches!(via, Via::Inspect(_));
    let has_rules = !options.rules.deny.is_empty() || !options.rules.allow.is_empty();
    ensure!(
        !has_rules || vias.iter().any(is_built_in),
        "only the built-in proxy applies --deny and --allow, and the chain has none; add `--via inspect`"
    );
    Ok(())
}

/// Finds the user of the proxies. Who may only call sudo must not become any user that it names, so then
/// root decides who may run proxies, by a group.
fn proxy_user(name: &str, under_sudo: bool) -> Result<User> {
    let user = User::named(name).context("--proxy-user")?;
    ensure!(
        !under_sudo || (user.id() != 0 && user.is_in_group_named(PROXY_GROUP)),
        "--proxy-user: under sudo, proxies run as a user in the group {PROXY_GROUP}, which {name} is not; \
         add it with `usermod -aG {PROXY_GROUP} {name}`, or call this as root"
    );
    Ok(user)
}

/// Converts an error of the engine. If sidetrackd is attached already, the message says so, and
/// what to do.
fn engine_error(error: anyhow::Error) -> anyhow::Error {
    let Some(Error::AlreadyAttached(path)) = error.downcast_ref() else {
        return error;
    };
    match Installation::find(None) {
        Ok(daemon) if daemon.is_running() || daemon.is_pinned() => anyhow!(
            "sidetrackd already classifies the connections in {} or around it, and two engines would \
             redirect each connection twice; redirect with the policy of sidetrackd (`sidetrack \
             apply`), or stop it and use `sidetrack uninstall`",
            path.display()
        ),
        _ => error,
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
    departures: &mut Departures,
    report: &mut Report,
    sender: &EventSender,
    events: &Receiver<RunEvent>,
) -> Result<ExitCode> {
    loop {
        wait(engine, departures, sender, report.deadline())?;
        report.show_overdue();
        report_kernel_events(engine, report)?;
        departures.report(report)?;
        for event in events.try_iter() {
            match event {
                RunEvent::Flow(line) => report.add(*line),
                RunEvent::Signal(number) => program.signal(number),
                RunEvent::ProgramEnded(status) => {
                    report_kernel_events(engine, report)?; // those of its last moment
                    departures.report(report)?;
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

/// Waits for an event of the kernel or of another thread, or until the deadline.
fn wait(
    engine: &Engine,
    departures: &Departures,
    sender: &EventSender,
    deadline: Option<Instant>,
) -> Result<()> {
    let descriptors = [engine.as_fd(), sender.as_fd()].into_iter();
    let mut descriptors: Vec<PollFd<'_>> = descriptors
        .chain(departures.descriptor())
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut descriptors, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => sender.clear_wakeup(),
        Err(error) => return Err(error).context("cannot wait for the command"),
    }
    Ok(())
}
