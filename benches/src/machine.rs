//! The machine on which the figures were measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// What influences the figures, as results.json stores it.
#[derive(Serialize)]
pub(crate) struct Machine {
    /// The release and the architecture of the kernel.
    pub(crate) kernel: String,
    /// The model name of the processor.
    pub(crate) cpu: String,
    /// The number of processors.
    pub(crate) cores: usize,
    /// Whether this is a virtual machine: then other guests of the same host may disturb a run.
    pub(crate) virtual_machine: bool,
    /// The clock source that [`std::time::Instant`] reads.
    pub(crate) clock: String,
    /// The load average of the last minute when the run began.
    pub(crate) load_average: String,
    /// The versions of the peers that are installed.
    pub(crate) peers: BTreeMap<&'static str, String>,
    /// Sidetrack's version.
    pub(crate) sidetrack: &'static str,
}

impl Machine {
    /// Describes this machine.
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

/// Runs each peer to print its version. The version is the first word that begins with a digit, or
/// with `v` and a digit, and contains a dot.
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
            continue; // the contests leave it out as well, and report that
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
