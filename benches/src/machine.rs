//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine, as far as it bears upon the figures.
#[derive(Serialize)]
pub(crate) struct Machine {
    /// Release and architecture.
    pub(crate) kernel: String,
    /// The processor's own name.
    pub(crate) cpu: String,
    /// How many of them.
    pub(crate) cores: usize,
    /// Whether it is a guest: then other guests may be heard.
    pub(crate) virtual_machine: bool,
    /// What [`std::time::Instant`] reads.
    pub(crate) clock: String,
    /// What else ran when the run began.
    pub(crate) load_average: String,
    /// The peers' versions, those that are installed.
    pub(crate) peers: BTreeMap<&'static str, String>,
    /// Sidetrack's version.
    pub(crate) sidetrack: &'static str,
}

impl Machine {
    /// This one.
    pub(crate) fn describe() -> Result<Self> {
        let system = rustix::system::uname();
        let processors = read("/proc/cpuinfo")?;
        let release = system.release().to_string_lossy();
        Ok(Self {
            kernel: format!("{release} {}", system.machine().to_string_lossy()),
            cpu: processor_name(&processors).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            virtual_machine: processors.contains(" hypervisor"),
            clock: read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?,
            load_average: read("/proc/loadavg")?.split(' ').take(1).collect(),
            peers: peers(),
            sidetrack: env!("CARGO_PKG_VERSION"),
        })
    }
}

fn processor_name(processors: &str) -> Option<&str> {
    let line = processors
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

/// How each tells its version; the first word of the answer that begins with a digit, or with v and one.
fn peers() -> BTreeMap<&'static str, String> {
    let mut peers = BTreeMap::new();
    for (name, program, argument) in [
        ("nftables", "nft", "--version"),
        ("haproxy", "haproxy", "-v"),
        ("nginx", "nginx", "-v"),
        ("redsocks", "redsocks", "-v"),
        ("socat", "socat", "-V"),
        ("mitmproxy", crate::relay::MITMDUMP, "--version"),
    ] {
        let Ok(output) = Command::new(program).arg(argument).output() else {
            continue; // it is left out of the contests, too, and said so there
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut words = text.split([' ', '/', '\n']);
        let version = words.find(|word| {
            let digits = word.trim_start_matches('v');
            digits.starts_with(|first: char| first.is_ascii_digit()) && digits.contains('.')
        });
        peers.insert(name, version.unwrap_or("unknown").to_owned());
    }
    peers
}
