//! Counts, by nftables, what the client sends straight to the origins' port.

use std::process::Command;

/// The counters in nftables of this network namespace.
pub(super) struct Uninspected;

impl Uninspected {
    /// Counts the SYNs and datagrams of this user to this port. What is diverted goes
    /// to the port of a proxy, and what a proxy sends is root's.
    pub(super) fn count(port: u16, uid: u32) -> Self {
        nft("add table inet chaos");
        nft("add counter inet chaos client");
        nft("add chain inet chaos output { type filter hook output priority 0; }");
        let of_client = format!("meta skuid {uid}");
        for packets in [
            format!("tcp dport {port} tcp flags & (syn | ack) == syn"),
            format!("udp dport {port}"),
        ] {
            nft(&format!(
                "add rule inet chaos output {of_client} {packets} counter name client"
            ));
        }
        Self
    }

    /// Number of packets that were counted.
    pub(super) fn packets(&self) -> u64 {
        let text = nft("list counter inet chaos client");
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets");
        let number = words.next().and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("no number of packets in {text}"))
    }
}

fn nft(commands: &str) -> String {
    let output = Command::new("nft").arg(commands).output();
    let output = output.expect("nft is installed");
    assert!(output.status.success(), "nft: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
