//! The chain's proxies: started, registered, awaited, stopped.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE};
use sidetrack_engine::{Cgroup, Engine, Service, ServiceSpec};

use super::command::launcher;
use super::wake::{Happening, Wake};
use crate::args;
use crate::scope::Scope;
use crate::via::Via;

/// How long a proxy may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
/// How long proxies may take to end once told to.
const STOP_MAX: Duration = Duration::from_secs(2);
/// Between two looks at a listener that is not there yet.
const LOOK: Duration = Duration::from_millis(5);

/// All proxies of a run, in the chain's order.
pub(super) struct Proxies {
    all: Vec<Proxy>,
}

struct Proxy {
    name: String,
    service: Service,
    /// None: it was running before us.
    pid: Option<Pid>,
    threads: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Proxies {
    pub(super) fn start(
        vias: &[(String, Via)],
        options: &args::Run,
        scope: &Scope,
        engine: &mut Engine,
        wake: &Wake,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for (index, (name, via)) in vias.iter().enumerate() {
            let proxy = match via {
                Via::Tcp(address) => Proxy::adopted(name, engine.adopt_service(name, *address)?),
                via => {
                    let cgroup = scope.service(index)?;
                    let spec = ServiceSpec {
                        owns_cgroup: true,
                        ..ServiceSpec::new(name)
                    };
                    let service = engine.add_service(&spec, &cgroup)?;
                    let command = command(via, options, &cgroup);
                    Proxy::start(index, name, service, command, wake)?
                }
            };
            all.push(proxy);
        }
        Ok(Self { all })
    }

    /// Waits until each listens. Errors: one has ended instead, or takes too long.
    pub(super) fn await_listeners(
        &mut self,
        engine: &Engine,
        happenings: &Receiver<Happening>,
    ) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        for proxy in &self.all {
            while engine.listeners(&proxy.service)? == (0, 0) {
                match happenings.recv_timeout(LOOK) {
                    Ok(Happening::ProxyEnded(index, status)) => {
                        let name = &self.all[index].name;
                        bail!("the proxy {name} ended before it was ready ({status})");
                    }
                    Ok(Happening::Signal(number)) => bail!("ended by signal {number}"),
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => bail!("all threads are gone"),
                }
                if Instant::now() > deadline {
                    let (name, seconds) = (&proxy.name, START_MAX.as_secs());
                    bail!("the proxy {name} did not register a listener within {seconds} s");
                }
            }
        }
        Ok(())
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.all.iter().map(|proxy| &proxy.service)
    }

    /// Notes that one has ended. Returns what to tell the user.
    pub(super) fn ended(&mut self, index: usize, status: ExitStatus) -> String {
        let proxy = &mut self.all[index];
        proxy.ended = Some(status);
        format!("the proxy {} has ended ({status})", proxy.name)
    }

    /// Ends those that we started, the first of the chain first, and waits for their last words.
    pub(super) fn stop(self) {
        for proxy in &self.all {
            proxy.signal(Signal::TERM);
        }
        let deadline = Instant::now() + STOP_MAX;
        for proxy in self.all {
            while Instant::now() < deadline && proxy.threads.iter().any(|one| !one.is_finished()) {
                thread::park_timeout(LOOK);
            }
            proxy.signal(Signal::KILL);
        }
    }
}

impl Proxy {
    fn adopted(name: &str, service: Service) -> Self {
        Self {
            name: name.to_owned(),
            service,
            pid: None,
            threads: Vec::new(),
            ended: None,
        }
    }

    fn start(
        index: usize,
        name: &str,
        service: Service,
        mut command: Command,
        wake: &Wake,
    ) -> Result<Self> {
        let mut child = command
            .env(LISTEN_VARIABLE, service.credentials_hex())
            .env(NAME_VARIABLE, name)
            .stdin(Stdio::null())
            .process_group(0) // a Ctrl-C is for the command
            .spawn()
            .with_context(|| format!("start the proxy {name}"))?;
        let pid = Pid::from_child(&child);
        let reader = child.stdout.take().map(|output| read_lines(output, wake));
        let waiter = await_end(index, child, wake);
        Ok(Self {
            name: name.to_owned(),
            service,
            pid: Some(pid),
            threads: reader.into_iter().chain([waiter]).collect(),
            ended: None,
        })
    }

    /// Only while its waiter has not taken its end: so its number is still its own.
    fn signal(&self, signal: Signal) {
        let running = self.ended.is_none() && self.threads.last().is_some_and(|w| !w.is_finished());
        if let Some(pid) = self.pid.filter(|_| running) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn command(via: &Via, options: &args::Run, cgroup: &Cgroup) -> Command {
    let mut command = launcher(cgroup);
    match via {
        Via::Exec(text) => {
            command.args(["/bin/sh", "-c", &format!("exec {text}")]);
            return command;
        }
        _ => command.args(["/proc/self/exe", "proxy", "--json"]),
    };
    for pattern in &options.rules.deny {
        command.arg("--deny").arg(pattern.to_string());
    }
    for pattern in &options.rules.allow {
        command.arg("--allow").arg(pattern.to_string());
    }
    command.args(["--idle-timeout", &options.rules.idle_timeout.to_string()]);
    command.stdout(Stdio::piped());
    command
}

fn read_lines(output: ChildStdout, wake: &Wake) -> JoinHandle<()> {
    let wake = wake.clone();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(flow) => wake.tell(Happening::Flow(Box::new(flow))),
                Err(_) => eprintln!("{line}"),
            }
        }
    })
}

fn await_end(index: usize, mut child: Child, wake: &Wake) -> JoinHandle<()> {
    let wake = wake.clone();
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            wake.tell(Happening::ProxyEnded(index, status));
        }
    })
}
