//! `sidetrackd`: the daemon.
#![forbid(unsafe_code)]

mod manual;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{CommandFactory, Parser};
use sidetrack_abi::text::{Printable, PrintableLines};
use sidetrack_api::config::Config;
use sidetrack_api::pended;
use sidetrackd::committer::{OnMismatch, Start};
use sidetrackd::data_path::{self, DataPath, Detached, Kernel};
use sidetrackd::event::EventLog;
use sidetrackd::server::{self, Api, Sockets};
use sidetrackd::systemd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format;

/// How long the calls in progress may take to end, once the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Sidetrack's daemon: manages policy, and puts it in force in the kernel.
///
/// Programs give it policy through an API on a Unix socket. It stores what must survive a restart
/// of the host, puts the policy in force in the kernel, and explains why a connection went where it
/// went.
///
/// No connection passes through the daemon. While it is stopped, killed or upgraded, the kernel
/// continues with the policy in force, and the next sidetrackd takes that policy over.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Read the configuration from this file. Without this option every setting has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit. The exit code is 0 if it is valid, and 2 otherwise.
    #[arg(long)]
    check: bool,
    /// Accept policy and answer queries, but load nothing into the kernel: no connection is
    /// classified. This is for trying out policies and clients.
    #[arg(long)]
    detached: bool,
    /// Start although the store is empty and the kernel has filters in force: leave them in force until
    /// `sidetrack apply` by root replaces them all. Their objects are not known, so until then all other
    /// changes are refused. Later starts need no option.
    #[arg(long, group = "mismatch")]
    adopt_kernel: bool,
    /// Start although the store is empty and the kernel has filters in force: remove them, so that
    /// connections are not classified until policy is added.
    #[arg(long, group = "mismatch")]
    start_empty: bool,
    /// Start although the filters in force in the kernel come from another store, or from a later
    /// commit to this one: replace them by the stored policy.
    #[arg(long, group = "mismatch")]
    start_stored: bool,
    /// Write the manual page of this program to a file, and exit.
    #[arg(long, value_name = "FILE", exclusive = true)]
    man: Option<PathBuf>,
}

impl Arguments {
    fn on_mismatch(&self) -> OnMismatch {
        match (self.adopt_kernel, self.start_empty, self.start_stored) {
            (true, ..) => OnMismatch::AdoptKernel,
            (_, true, _) => OnMismatch::StartEmpty,
            (.., true) => OnMismatch::StartStored,
            _ => OnMismatch::Refuse,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidetrackd: {:#}", PrintableLines(error));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.man {
        let page = manual::page(Arguments::command())?;
        return std::fs::write(path, page)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let filter = log_filter(&config.log)?;
    if !arguments.detached {
        sidetrack_engine::check_pins(&config.pins)?;
    }
    if arguments.check {
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(log_fields())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let committer = runtime.block_on(serve(config, arguments))?;
    info!("sidetrackd is stopping; the policy stays in force in the kernel");
    // The last call drops the last handle to the committer, which ends once it has done all its
    // tasks.
    runtime.shutdown_timeout(STOP_MAX);
    let joined = committer.join();
    joined.map_err(|_| anyhow::anyhow!("the committer's thread panicked"))
}

/// Parses the setting `log`. A word that is no level would be a directive for a target of this name,
/// and nothing would be logged.
fn log_filter(text: &str) -> Result<EnvFilter> {
    let is_level = LOG_LEVELS.contains(&text);
    ensure!(
        is_level || text.contains('='),
        "the setting `log` is {text:?}, and must be one of {}",
        LOG_LEVELS.join(", ")
    );
    EnvFilter::try_new(text).context("the setting `log` is not valid")
}

/// The levels that the setting `log` may name.
const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Serves the API until a signal arrives or the committer ends, and returns the committer's thread.
async fn serve(config: Config, arguments: &Arguments) -> Result<JoinHandle<()>> {
    let log = EventLog::default();
    let start = Start {
        store: Some(config.store.clone()),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?,
        log: log.clone(),
        refresh: Duration::from_secs(config.refresh_seconds),
        on_mismatch: arguments.on_mismatch(),
    };
    let detached = arguments.detached;
    let (cgroup, pins) = (config.cgroup.clone(), config.pins.clone());
    let (committer, thread) = start
        .spawn(move || open_data_path(detached, &cgroup, &pins))
        .await?;
    let in_force = committer.in_force();
    let api = Api::new(&config, committer.clone(), log)?;
    let socket = &config.socket;
    let sockets = Sockets {
        api: listen(socket)?,
        pended: listen(&pended::socket(socket))?,
    };
    info!(
        "sidetrackd listens at {}; policy generation {} is in force",
        socket.display(),
        in_force.generation
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
    api.serve(sockets, config.limits.connections, stop).await?;
    Ok(thread)
}

fn listen(socket: &Path) -> Result<UnixListener> {
    server::listen(socket).with_context(|| format!("cannot listen at {}", socket.display()))
}

fn open_data_path(
    detached: bool,
    cgroup: &Path,
    pins: &Path,
) -> Result<Box<dyn DataPath>, data_path::Error> {
    if detached {
        return Ok(Box::new(Detached::default()));
    }
    Ok(Box::new(Kernel::open(cgroup, pins)?))
}

fn notify_manager(message: &str) {
    if let Err(error) = systemd::notify(message) {
        warn!("cannot notify the service manager of {message}: {error}");
    }
}

/// Formats the fields of log entries, escaped, since clients choose the names in messages.
fn log_fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let fields = format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{}", Printable(format_args!("{value:?}"))),
        name => write!(writer, "{name}={}", Printable(format_args!("{value:?}"))),
    });
    fields.delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_entry_is_one_printable_line() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .fmt_fields(log_fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            warn!(
                name = "b\u{202e}",
                "service {} is gone", "a\u{202e}\n\u{1b}[2J"
            );
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains(r"service a\u{202e}\n\u{1b}[2J is gone name="),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.trim_end()
                .chars()
                .all(sidetrack_abi::text::is_printable)
        );
    }
}
