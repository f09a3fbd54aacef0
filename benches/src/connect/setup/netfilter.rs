//! nftables: NAT rules, and SO_ORIGINAL_DST, which connection tracking answers.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::{ConnectSetup, PORT, expect, listen, probe, remote_destination};
use crate::hierarchy::Hierarchy;
use crate::namespace;
use crate::netfilter::{load, redirected};

const REDIRECT_RULES: &str = include_str!("../../../peers/redirect.nft");
const UNMATCHED_RULES: &str = include_str!("../../../peers/unmatched.nft");
/// The number of rules, or of elements of the set.
const RULES: u32 = 10_000;
/// The port that all rule sets redirect to.
const PROXY_PORT: u16 = 9999;

/// nftables redirects everything to 10.0.0.0/8.
pub(crate) struct Redirected {
    listener: TcpListener,
    _hierarchy: Hierarchy,
}

/// nftables has rules, and no connection matches them.
pub(crate) struct Bystander {
    listener: TcpListener,
    _hierarchy: Hierarchy,
}

impl Redirected {
    /// Loads the rules, and opens the listener, in cgroups that are as deep as those of the other
    /// cases.
    pub(crate) fn open() -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        load(REDIRECT_RULES)?;
        hierarchy.enter_program()?;
        Ok(Self {
            listener: listen(PROXY_PORT, None)?,
            _hierarchy: hierarchy,
        })
    }
}

impl Bystander {
    /// One rule, for other destinations.
    pub(crate) fn open() -> Result<Self> {
        Self::open_with(UNMATCHED_RULES)
    }

    /// 10,000 more rules before that one, each for one address and port.
    pub(crate) fn open_linear() -> Result<Self> {
        let rules: String = other_destinations()
            .map(|(address, port)| {
                format!("\t\tip daddr {address} tcp dport {port} redirect to :9999\n")
            })
            .collect();
        Self::open_with(
            &UNMATCHED_RULES.replace("\t\tip daddr 192", &format!("{rules}\t\tip daddr 192")),
        )
    }

    /// One more rule before that one, with a set of the same addresses and ports.
    pub(crate) fn open_set() -> Result<Self> {
        let elements: Vec<String> = other_destinations()
            .map(|(address, port)| format!("{address} . {port}"))
            .collect();
        let set = format!(
            "\tset others {{ type ipv4_addr . inet_service; elements = {{ {} }} }}\n\tchain",
            elements.join(", ")
        );
        let rule = "\t\tip daddr . tcp dport @others redirect to :9999\n\t\tip daddr 192";
        let rules = UNMATCHED_RULES.replacen("\tchain", &set, 1);
        Self::open_with(&rules.replace("\t\tip daddr 192", rule))
    }

    fn open_with(rules: &str) -> Result<Self> {
        let hierarchy = Hierarchy::make()?;
        load(rules)?;
        hierarchy.enter_program()?;
        probe(&listen(PROXY_PORT, None)?)?;
        expect("the rule's counter", redirected()?, 1)?;
        Ok(Self {
            listener: listen(PORT, None)?,
            _hierarchy: hierarchy,
        })
    }
}

impl ConnectSetup for Redirected {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn destination(&self, number: u32) -> SocketAddrV4 {
        remote_destination(number)
    }

    fn query(&self, accepted: &TcpStream) -> Result<Option<SocketAddr>> {
        let address = SockRef::from(accepted)
            .original_dst_v4()
            .context("read SO_ORIGINAL_DST")?;
        Ok(address.as_socket())
    }

    fn check(&self, made: u64) -> Result<()> {
        expect("the rule's counter", redirected()?, made)
    }
}

impl ConnectSetup for Bystander {
    fn listener(&self) -> &TcpListener {
        &self.listener
    }

    fn check(&self, _made: u64) -> Result<()> {
        expect("the rule's counter minus the probe", redirected()? - 1, 0)?;
        let tracked = namespace::number("netfilter/nf_conntrack_count")?;
        ensure!(tracked > 0, "connections were not tracked");
        Ok(())
    }
}

/// Addresses and ports that no client connects to.
fn other_destinations() -> impl Iterator<Item = (std::net::Ipv4Addr, u16)> {
    (0..RULES).map(|number| ((0x0a00_0000 + number * 7).into(), (1024 + number) as u16))
}
