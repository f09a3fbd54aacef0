//! `sidetrack proxy`: the built-in inspecting proxy, as a separate process.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use sidetrack::{Service, WhyAccepted};
use sidetrack_proxy::datagrams::Counts;
use sidetrack_proxy::dns::Denial;
use sidetrack_proxy::settings::Quic;
use sidetrack_proxy::{FlowLine, Server, Settings};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{self, ConnectArg, DnsDenialArg, QuicArg};
use crate::format::json_line;

/// How long open connections may continue after SIGTERM.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

pub(crate) fn proxy(options: args::ProxyArgs) -> Result<ExitCode> {
    let service = match options.rules.connect {
        ConnectArg::Pended => Service::from_env()?.pended(),
        ConnectArg::Accepted => Service::from_env()?,
    };
    raise_descriptor_limit();
    let settings = settings(options.rules);
    let json = options.json;
    // This runtime only waits for the signal. Connections and datagrams are handled by other
    // threads.
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime
        .context("cannot start the asynchronous runtime")?
        .block_on(async move {
            let mut terminated = signal(SignalKind::terminate())
                .context("cannot install the handler for SIGTERM")?;
            let stop = async move {
                terminated.recv().await;
                SHUTDOWN_GRACE
            };
            let server = Server::bind(&service, settings)?;
            match server.why_accepted() {
                None | Some(WhyAccepted::ServiceAccepts) => {} // as the policy says
                Some(why) => eprintln!("sidetrack proxy: {why}"),
            }
            let counts = server.run(stop, move |line| print(&line, json)).await?;
            report_counts(&counts);
            Ok(ExitCode::SUCCESS)
        })
}

fn settings(rules: args::RuleArgs) -> Settings {
    let mut settings = Settings::default();
    settings.rules = sidetrack_proxy::Rules::new(rules.deny, rules.allow);
    settings.idle_timeout = Duration::from_secs(rules.idle_timeout);
    settings.connect_timeout = Duration::from_secs(rules.connect_timeout);
    settings.datagram_idle = settings.datagram_idle.min(settings.idle_timeout);
    settings.denial = match rules.dns_denial {
        DnsDenialArg::Nxdomain => Denial::NoSuchName,
        DnsDenialArg::Refused => Denial::Refused,
    };
    settings.quic = match rules.quic {
        QuicArg::Allow => Quic::Allow,
        QuicArg::Refuse => Quic::Refuse,
    };
    settings
}

/// Prints the numbers of datagrams, flows and errors that no flow line contains.
fn report_counts(counts: &Counts) {
    for (number, what) in [
        (
            counts.refused,
            "datagrams dropped because they were sent directly to the proxy's port",
        ),
        (
            counts.overflowed,
            "datagrams lost because they arrived faster than the proxy read them",
        ),
        (
            counts.made_room,
            "UDP flows ended early to make room for new ones",
        ),
        (
            counts.unreported,
            "errors not passed on to UDP clients because the proxy has no CAP_NET_RAW",
        ),
    ] {
        if number > 0 {
            eprintln!("sidetrack proxy: {what}: {number}");
        }
    }
}

/// Raises the soft limit of descriptors to the hard limit. A connection takes up to six
/// descriptors, and the soft limit is often 1,024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // without it, fewer connections fit
}

fn print(line: &FlowLine, json: bool) {
    let mut text = match json {
        true => json_line(line).unwrap_or_default(),
        false => line.to_string(),
    };
    text.push('\n');
    // One write for each line, so that lines of different threads never mix. It fails if the reader
    // has closed the pipe.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
