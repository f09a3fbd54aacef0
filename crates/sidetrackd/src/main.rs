//! `sidetrackd`: the daemon.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use sidetrackd::committer::Start;
use sidetrackd::data_path::{DataPath, Detached, Kernel};
use sidetrackd::event::EventLog;
use sidetrackd::server::{self, Api};
use sidetrackd::{Config, Error, systemd};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// How long calls may take to go.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Sidetrack's daemon: keeps policy, puts it in force, and answers for it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; without it the defaults hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is right
    #[arg(long)]
    check: bool,
    /// Hold policy and answer for it, but judge no connection by it
    #[arg(long)]
    detached: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidetrackd: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let filter = EnvFilter::try_new(&config.log).context("the setting `log` is not right")?;
    if arguments.check {
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let committer = runtime.block_on(serve(config, arguments.detached))?;
    info!("stopping; what is in force stays");
    // The calls go, and with the last of them the way to the committer: it ends when it has done all.
    runtime.shutdown_timeout(STOP_MAX);
    let ended = committer.join();
    ended.map_err(|_| anyhow::anyhow!("the committer's thread panicked"))
}

/// Serves until it is told to stop, and returns the committer's thread.
async fn serve(config: Config, detached: bool) -> Result<JoinHandle<()>> {
    let log = EventLog::default();
    let start = Start {
        store: Some(config.store.clone()),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?,
        log: log.clone(),
        refresh: Duration::from_secs(config.refresh_seconds),
    };
    let (cgroup, pins) = (config.cgroup.clone(), config.pins.clone());
    let (committer, thread) = start
        .spawn(move || data_path(detached, &cgroup, &pins))
        .await?;
    let in_force = committer.in_force();
    let api = Api::new(&config, committer.clone(), log)?;
    let socket = &config.socket;
    let listener =
        server::listen(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    info!(
        "generation {} is in force; listening at {}",
        in_force.generation,
        socket.display()
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = committer.ended() => {}
        }
        notify_manager("STOPPING=1");
    };
    notify_manager("READY=1");
    api.serve(listener, config.limits.connections, stop).await?;
    Ok(thread)
}

fn data_path(detached: bool, cgroup: &Path, pins: &Path) -> Result<Box<dyn DataPath>, Error> {
    if detached {
        return Ok(Box::new(Detached::default()));
    }
    Ok(Box::new(Kernel::open(cgroup, pins)?))
}

fn notify_manager(message: &str) {
    if let Err(error) = systemd::notify(message) {
        warn!("cannot tell the service manager {message}: {error}");
    }
}
