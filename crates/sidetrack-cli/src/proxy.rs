//! `sidetrack proxy`: the inspecting proxy, as a process of its own.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use sidetrack::Service;
use sidetrack_proxy::{FlowLine, Server, Settings};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args;

/// How long open connections may go on after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);

pub(crate) fn proxy(options: args::Proxy) -> Result<ExitCode> {
    let service = Service::from_env()?;
    raise_descriptor_limit();
    let mut settings = Settings::default();
    settings.rules = sidetrack_proxy::Rules::new(options.rules.deny, options.rules.allow);
    settings.idle_timeout = Duration::from_secs(options.rules.idle_timeout);
    let json = options.json;
    let runtime = Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let stop = async move {
            terminated.recv().await;
            GRACE
        };
        let server = Server::bind(&service, settings)?;
        server.run(stop, move |line| print(&line, json)).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
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
