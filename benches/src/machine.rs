//! What the figures were measured on.

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
    /// nftables' version.
    pub(crate) nft: String,
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
            nft: nft_version()?,
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

fn nft_version() -> Result<String> {
    let output = Command::new("nft")
        .arg("--version")
        .output()
        .context("run nft (nftables)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .nth(1)
        .unwrap_or("unknown")
        .to_owned())
}
