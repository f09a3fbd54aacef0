//! `sidetrack proxy`: the inspecting proxy, as a process of its own.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use sidetrack::Service;
use sidetrack_proxy::datagrams::{Counts, Quic};
use sidetrack_proxy::dns::Denial;
use sidetrack_proxy::{FlowLine, Server, Settings};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{self, DnsDenial};

/// How long open connections may go on after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);

pub(crate) fn proxy(options: args::Proxy) -> Result<ExitCode> {
    let service = Service::from_env()?;
    raise_descriptor_limit();
    let mut settings = Settings::default();
    settings.rules = sidetrack_proxy::Rules::new(options.rules.deny, options.rules.allow);
    settings.idle_timeout = Duration::from_secs(options.rules.idle_timeout);
    settings.datagram_idle = settings.datagram_idle.min(settings.idle_timeout);
    settings.denial = match options.rules.dns_denial {
        DnsDenial::Nxdomain => Denial::NoSuchName,
        DnsDenial::Refused => Denial::Refused,
    };
    settings.quic = match options.rules.quic {
        args::Quic::Allow => Quic::Allow,
        args::Quic::Refuse => Quic::Refuse,
    };
    let json = options.json;
    // It only waits for the signal: connections and datagrams have threads of their own.
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(async move {
        let mut terminated = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let stop = async move {
            terminated.recv().await;
            GRACE
        };
        let server = Server::bind(&service, settings)?;
        let counts = server.run(stop, move |line| print(&line, json)).await?;
        tell(&counts);
        Ok(ExitCode::SUCCESS)
    })
}

/// Of what no flow line tells.
fn tell(counts: &Counts) {
    for (number, what) in [
        (
            counts.refused,
            "datagrams came straight to the proxy's port, and were dropped",
        ),
        (
            counts.overflowed,
            "datagrams came faster than the proxy took them, and were lost",
        ),
        (
            counts.made_room,
            "flows of datagrams ended as others needed their place",
        ),
        (
            counts.untold,
            "errors of origins were not told to the clients; that takes CAP_NET_RAW",
        ),
    ] {
        if number > 0 {
            eprintln!("sidetrack proxy: {number} {what}");
        }
    }
}

/// A connection takes up to six descriptors; the soft limit is often 1,024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // it works with fewer
}

fn print(line: &FlowLine, json: bool) {
    let mut text = match json {
        true => serde_json::to_string(line).unwrap_or_default(),
        false => line.to_string(),
    };
    text.push('\n');
    // One write for each line, so that lines never mix. Whoever reads may have gone.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
