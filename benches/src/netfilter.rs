//! Loads nftables rules in this namespace, and reads their counter.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Loads a rule set.
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
        .context("pass the rules to nft")?;
    let status = nft.wait().context("wait for nft")?;
    ensure!(status.success(), "nft rejected the rules");
    Ok(())
}

/// Returns the number of connections that the rules redirected.
pub(crate) fn redirected() -> Result<u64> {
    let output = Command::new("nft")
        .args(["--json", "list", "counter", "ip", "peer", "redirected"])
        .output()
        .context("run nft (nftables)")?;
    let listed: Value = serde_json::from_slice(&output.stdout).context("read the output of nft")?;
    listed["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .context("the output of nft does not contain the rule's counter")
}
