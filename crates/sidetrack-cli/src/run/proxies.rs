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
use sidetrack_engine::filter::Protocol;
use sidetrack_engine::{Cgroup, Engine, Service, ServiceSpec};

use super::command::launcher;
use super::wake::{Happening, Wake};
use crate::args::{self, DnsDenial, Quic};
use crate::scope::Scope;
use crate::via::Via;

/// How long a proxy may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
/// How long proxies may take to end once told to.
const STOP_MAX: Duration = Duration::from_secs(2);
/// Between two looks at a listener that is not there yet.
const LOOK: Duration = Duration::from_millis(5);

/// What a proxy may be expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Connections and datagrams.
    Inspect,
    /// Either or both: what it has sockets for when it is first seen to listen.
    Exec,
    /// Connections.
    Tcp,
}

/// What one proxy takes of one protocol.
pub(super) struct Taker<'a> {
    pub(super) service: &'a Service,
    pub(super) protocol: Protocol,
    /// It has no socket for it: what it would take goes past it, and that is nothing to tell.
    pub(super) is_deaf: bool,
}

/// All proxies of a run, in the chain's order.
pub(super) struct Proxies {
    all: Vec<Proxy>,
}

struct Proxy {
    name: String,
    kind: Kind,
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
                    let kind = match via {
                        Via::Exec(_) => Kind::Exec,
                        _ => Kind::Inspect,
                    };
                    Proxy::start(index, (name, kind), service, command, wake)?
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
            while !proxy.is_ready(engine)? {
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

    /// What they take, in the chain's order. Once all listen.
    pub(super) fn takers(&self, engine: &Engine) -> Result<Vec<Taker<'_>>> {
        let mut takers = Vec::new();
        for proxy in &self.all {
            let (tcp, udp) = proxy.listens(engine)?;
            for (protocol, listens) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
                takers.push(Taker {
                    service: &proxy.service,
                    protocol,
                    is_deaf: !listens,
                });
            }
        }
        Ok(takers)
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
    /// Whether it takes connections, and datagrams.
    fn listens(&self, engine: &Engine) -> Result<(bool, bool)> {
        let tcp = engine.listeners(&self.service)? != (0, 0);
        let udp = engine.datagram_listeners(&self.service)? != (0, 0);
        Ok((tcp, udp))
    }

    fn is_ready(&self, engine: &Engine) -> Result<bool> {
        let (tcp, udp) = self.listens(engine)?;
        Ok(match self.kind {
            Kind::Inspect => tcp && udp,
            Kind::Exec => tcp || udp,
            Kind::Tcp => tcp,
        })
    }

    fn adopted(name: &str, service: Service) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Tcp,
            service,
            pid: None,
            threads: Vec::new(),
            ended: None,
        }
    }

    fn start(
        index: usize,
        (name, kind): (&str, Kind),
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
            kind,
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
    let is_foreign = matches!(via, Via::Exec(_));
    let mut command = launcher(cgroup, !is_foreign); // ours tells clients of errors
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
    if options.rules.dns_denial == DnsDenial::Refused {
        command.args(["--dns-denial", "refused"]);
    }
    if options.rules.quic == Quic::Refuse {
        command.args(["--quic", "refuse"]);
    }
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
