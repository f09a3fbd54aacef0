//! The proxies of the chain: starting and registering them, waiting for their listeners, stopping
//! them.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use sidetrack::{LISTEN_VARIABLE, NAME_VARIABLE, Printable};
use sidetrack_engine::{Cgroup, Engine, RegisteredService, ServiceSpec};
use sidetrack_policy::ConnectMode;
use sidetrack_policy::redirect::Protocol;

use super::command::launcher;
use super::event::{EventSender, RunEvent};
use crate::args::{self, ConnectArg, DnsDenialArg, QuicArg};
use crate::run_cgroup::RunCgroup;
use crate::user::User;
use crate::via::Via;

/// How long all proxies together may take until they listen.
const START_MAX: Duration = Duration::from_secs(10);
/// How long all proxies together may take to end after SIGTERM, before they get SIGKILL.
const STOP_MAX: Duration = Duration::from_secs(2);
/// Interval of checking whether a proxy listens, or has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The kind of a proxy, which determines the protocols for which it must have a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProxyKind {
    /// The built-in proxy: TCP and UDP.
    Inspect,
    /// A proxy of `exec:COMMAND`: TCP, UDP or both, depending on its listeners when it is first
    /// seen to have one.
    Exec,
    /// A legacy proxy: TCP.
    Legacy,
}

/// How the connections of one protocol reach one proxy.
pub(super) struct Route<'a> {
    /// The service of the proxy.
    pub(super) service: &'a RegisteredService,
    /// The protocol.
    pub(super) protocol: Protocol,
    /// The proxy has no listener for the protocol, by its nature. Connections then continue without
    /// it, and this is not reported.
    pub(super) is_unsupported: bool,
}

/// All proxies of a run, in the order of the chain.
pub(super) struct Proxies {
    all: Vec<Proxy>,
}

struct Proxy {
    /// The unique name from [`crate::via::named`].
    name: String,
    kind: ProxyKind,
    service: RegisteredService,
    /// Process id. `None` for a legacy proxy, which this process has not started.
    pid: Option<Pid>,
    /// The thread that reads its output, if there is one; then the thread that waits for its end.
    threads: Vec<JoinHandle<()>>,
    /// Exit status, once its end has been noted by [`Proxies::note_end`].
    ended: Option<ExitStatus>,
}

impl Proxies {
    /// Registers a service for each proxy and starts the proxies as this user (`None`: as this process's),
    /// except legacy proxies, whose listeners are adopted.
    pub(super) fn start(
        vias: &[(String, Via)],
        options: &args::RunArgs,
        user: Option<&User>,
        run_cgroup: &RunCgroup,
        engine: &mut Engine,
        sender: &EventSender,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for (index, (name, via)) in vias.iter().enumerate() {
            let proxy = match via {
                Via::Tcp(address) => Proxy::adopted(name, engine.adopt_service(name, *address)?),
                via => {
                    let cgroup = run_cgroup.service(index)?;
                    let spec = ServiceSpec {
                        connect: ConnectMode::Pended,
                        owns_cgroup: true,
                        ..ServiceSpec::new(name)
                    };
                    let service = engine.add_service(&spec, &cgroup)?;
                    let kind = match via {
                        Via::Exec(_) => ProxyKind::Exec,
                        _ => ProxyKind::Inspect,
                    };
                    // CAP_NET_RAW lets the built-in proxy pass errors on to UDP clients.
                    let mut launcher = launcher(&cgroup, user, kind == ProxyKind::Inspect);
                    pend(&mut launcher, &cgroup, &service, engine)?;
                    launcher.arg("--");
                    let command = proxy_command(via, options, launcher);
                    Proxy::start(index, (name, kind), service, command, sender)?
                }
            };
            all.push(proxy);
        }
        Ok(Self { all })
    }

    /// Waits until every proxy listens.
    ///
    /// # Errors
    ///
    /// A proxy ended or took too long, or this process got a signal.
    pub(super) fn await_listeners(
        &mut self,
        engine: &Engine,
        events: &Receiver<RunEvent>,
    ) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        for proxy in &self.all {
            while !proxy.is_ready(engine)? {
                match events.recv_timeout(POLL_INTERVAL) {
                    Ok(RunEvent::ProxyEnded(index, status)) => {
                        let name = &self.all[index].name;
                        bail!("the proxy {name} ended before it was ready ({status})");
                    }
                    Ok(RunEvent::Signal(number)) => {
                        bail!("stopped by signal {number} before all proxies were ready")
                    }
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        bail!("internal error: no thread is left that waits for the proxies")
                    }
                }
                if Instant::now() > deadline {
                    let (name, seconds) = (&proxy.name, START_MAX.as_secs());
                    bail!("the proxy {name} did not register a listener within {seconds} s");
                }
            }
        }
        Ok(())
    }

    /// Returns the routes, two for each proxy, in the order of the chain. Call it when all proxies
    /// listen.
    pub(super) fn routes(&self, engine: &Engine) -> Result<Vec<Route<'_>>> {
        let mut routes = Vec::new();
        for proxy in &self.all {
            let (tcp, udp) = proxy.listens(engine)?;
            for (protocol, listens) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
                routes.push(Route {
                    service: &proxy.service,
                    protocol,
                    is_unsupported: !listens,
                });
            }
        }
        Ok(routes)
    }

    /// Notes that a proxy has ended. Returns a message for the user.
    pub(super) fn note_end(&mut self, index: usize, status: ExitStatus) -> String {
        let proxy = &mut self.all[index];
        proxy.ended = Some(status);
        format!("the proxy {} has ended ({status})", proxy.name)
    }

    /// Stops the proxies that this process has started, in the order of the chain, first with
    /// SIGTERM and then with SIGKILL. Waits until their last flow lines are read.
    pub(super) fn stop(self) {
        for proxy in &self.all {
            proxy.signal(Signal::TERM);
        }
        let deadline = Instant::now() + STOP_MAX;
        for proxy in self.all {
            while Instant::now() < deadline
                && proxy.threads.iter().any(|thread| !thread.is_finished())
            {
                thread::park_timeout(POLL_INTERVAL);
            }
            proxy.signal(Signal::KILL);
        }
    }
}

impl Proxy {
    /// Returns whether the proxy has listeners for TCP, and for UDP.
    fn listens(&self, engine: &Engine) -> Result<(bool, bool)> {
        let listeners = engine.listeners(&self.service)?;
        Ok((listeners.tcp() != (0, 0), listeners.udp() != (0, 0)))
    }

    fn is_ready(&self, engine: &Engine) -> Result<bool> {
        let (tcp, udp) = self.listens(engine)?;
        Ok(match self.kind {
            ProxyKind::Inspect => tcp && udp,
            ProxyKind::Exec => tcp || udp,
            ProxyKind::Legacy => tcp,
        })
    }

    /// A legacy proxy whose listener was adopted.
    fn adopted(name: &str, service: RegisteredService) -> Self {
        Self {
            name: name.to_owned(),
            kind: ProxyKind::Legacy,
            service,
            pid: None,
            threads: Vec::new(),
            ended: None,
        }
    }

    /// Starts a proxy. Its flow lines and its end are sent as events.
    fn start(
        index: usize,
        (name, kind): (&str, ProxyKind),
        service: RegisteredService,
        mut command: Command,
        sender: &EventSender,
    ) -> Result<Self> {
        let mut child = command
            .env(LISTEN_VARIABLE, service.credentials_hex())
            .env(NAME_VARIABLE, name)
            .stdin(Stdio::null())
            .process_group(0) // so that only the command gets a Ctrl-C
            .spawn()
            .with_context(|| format!("cannot start the proxy {name}"))?;
        let pid = Pid::from_child(&child);
        let reader = child.stdout.take().map(|output| read_lines(output, sender));
        let waiter = await_end(index, child, sender);
        Ok(Self {
            name: name.to_owned(),
            kind,
            service,
            pid: Some(pid),
            threads: reader.into_iter().chain([waiter]).collect(),
            ended: None,
        })
    }

    /// Sends a signal while the process has not been waited for. After that, another process may
    /// have its id.
    fn signal(&self, signal: Signal) {
        let running = self.ended.is_none() && self.threads.last().is_some_and(|w| !w.is_finished());
        if let Some(pid) = self.pid.filter(|_| running) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Lets the launcher hand the proxy what it needs to pend connects.
fn pend(
    launcher: &mut Command,
    cgroup: &Cgroup,
    service: &RegisteredService,
    engine: &mut Engine,
) -> Result<()> {
    let Some(ring) = engine.ring(service.number)? else {
        return Ok(());
    };
    let senders = cgroup.make("sender")?;
    engine.attach_sender(&senders)?;
    launcher.args(["--ring", &ring.to_string(), "--sender-cgroup"]);
    launcher.arg(senders.path());
    Ok(())
}

/// Returns the command that starts a proxy, after this beginning.
fn proxy_command(via: &Via, options: &args::RunArgs, mut command: Command) -> Command {
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
    command.args([
        "--connect-timeout",
        &options.rules.connect_timeout.to_string(),
    ]);
    if options.rules.connect == ConnectArg::Accepted {
        command.args(["--connect", "accepted"]);
    }
    if options.rules.dns_denial == DnsDenialArg::Refused {
        command.args(["--dns-denial", "refused"]);
    }
    if options.rules.quic == QuicArg::Refuse {
        command.args(["--quic", "refuse"]);
    }
    command.stdout(Stdio::piped());
    command
}

/// Starts a thread that sends each flow line of a proxy as an event. Other lines go to standard
/// error.
fn read_lines(output: ChildStdout, sender: &EventSender) -> JoinHandle<()> {
    let sender = sender.clone();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(flow) => sender.send(RunEvent::Flow(Box::new(flow))),
                Err(_) => eprintln!("{}", Printable(line)),
            }
        }
    })
}

/// Starts a thread that waits for a proxy and sends its end as an event.
fn await_end(index: usize, mut child: Child, sender: &EventSender) -> JoinHandle<()> {
    let sender = sender.clone();
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            sender.send(RunEvent::ProxyEnded(index, status));
        }
    })
}
