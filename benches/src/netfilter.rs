//! nftables: rules into force in this namespace, and what their counter says.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Puts rules into force.
pub(crate) fn load(rules: &str) -> Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run nft (nftables)")?;
    nft.stdin
        .take()
        .expect("it is piped")
        .write_all(rules.as_bytes())
        .context("give nft its rules")?;
    let status = nft.wait().context("wait for nft")?;
    ensure!(status.success(), "nft refuses the rules");
    Ok(())
}

/// How many connections the rules have redirected.
pub(crate) fn redirected() -> Result<u64> {
    let output = Command::new("nft")
        .args(["--json", "list", "counter", "ip", "peer", "redirected"])
        .output()
        .context("run nft (nftables)")?;
    let listed: Value = serde_json::from_slice(&output.stdout).context("read nft's answer")?;
    listed["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .context("nft does not tell the rule's counter")
}
