//! The contestants: redirectors, each with a proxy behind it.

use serde::{Deserialize, Serialize};
use sidetrack_engine::ConnectMode;

/// How many proxies run next to a bystander's traffic.
pub(crate) const NEIGHBOURS: u32 = 8;

/// A redirector and the proxy behind it. The order is that of tables and charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// No redirector and no proxy: the client connects to the origin. This is the limit of
    /// loopback.
    Direct,
    /// No redirector: the client connects to the minimal relay. This is the limit of any relay.
    TwoHops,
    /// Sidetrack with `sidetrack proxy`, which accepts a client before it connects onward.
    Sidetrack,
    /// nftables and HAProxy with `option splice-auto`.
    HaproxySplice,
    /// nftables and HAProxy without `option splice-auto`.
    Haproxy,
    /// nftables and the `stream` module of nginx, whose configuration names the origin.
    Nginx,
    /// nftables, redsocks, and a SOCKS proxy (microsocks): one hop more than the others.
    Redsocks,
    /// nftables and socat, whose arguments name the origin.
    Socat,
    /// nftables and mitmproxy in transparent mode.
    Mitmproxy,
    /// Sidetrack and an unmodified HAProxy with `option splice-auto`.
    HaproxyBehind,
    /// nftables and the minimal relay.
    NftMinimal,
    /// Sidetrack with a chain of this many `sidetrack proxy`.
    Chain(u32),
    /// The same as `Chain`, under the name that the topic `pended` uses.
    Accepted(u32),
    /// Sidetrack with a chain of this many `sidetrack proxy` that pend connects.
    Pended(u32),
    /// No redirector on the path: a chain of [`NEIGHBOURS`] proxies that accept serves other connects on the
    /// same host.
    NextToAccepted,
    /// The same with proxies that pend, which hold these connects.
    NextToPended,
}

impl Contestant {
    /// The name in results.json and on the pages.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Direct => "direct".to_owned(),
            Self::TwoHops => "two direct hops".to_owned(),
            Self::Sidetrack => "sidetrack".to_owned(),
            Self::HaproxySplice => "nft + haproxy, splice".to_owned(),
            Self::Haproxy => "nft + haproxy".to_owned(),
            Self::Nginx => "nft + nginx".to_owned(),
            Self::Redsocks => "nft + redsocks + microsocks".to_owned(),
            Self::Socat => "nft + socat".to_owned(),
            Self::Mitmproxy => "nft + mitmproxy".to_owned(),
            Self::HaproxyBehind => "sidetrack + haproxy".to_owned(),
            Self::NftMinimal => "nft + minimal relay".to_owned(),
            Self::Chain(services) => format!("chain of {services}"),
            Self::Accepted(1) => "accepted".to_owned(),
            Self::Accepted(services) => format!("accepted, {services} hops"),
            Self::Pended(1) => "pended".to_owned(),
            Self::Pended(services) => format!("pended, {services} hops"),
            Self::NextToAccepted => format!("next to {NEIGHBOURS} that accept"),
            Self::NextToPended => format!("next to {NEIGHBOURS} that pend"),
        }
    }

    /// Whether Sidetrack is the redirector.
    pub(crate) fn is_sidetrack(self) -> bool {
        self == Self::HaproxyBehind || self.services() > 0
    }

    /// The number of `sidetrack proxy` that the engine redirects to, one behind another.
    pub(crate) fn services(self) -> u32 {
        match self {
            Self::Sidetrack => 1,
            Self::Chain(services) | Self::Accepted(services) | Self::Pended(services) => services,
            Self::NextToAccepted | Self::NextToPended => NEIGHBOURS,
            _ => 0,
        }
    }

    /// When these proxies complete a client's connect.
    pub(crate) fn connect_mode(self) -> ConnectMode {
        match self {
            Self::Pended(_) | Self::NextToPended => ConnectMode::Pended,
            _ => ConnectMode::Accepted,
        }
    }

    /// Whether the traffic that is measured does not go through the proxies.
    pub(crate) fn is_bystander(self) -> bool {
        matches!(self, Self::NextToAccepted | Self::NextToPended)
    }

    /// Whether a redirector diverts the connections.
    pub(crate) fn has_redirector(self) -> bool {
        !matches!(self, Self::Direct | Self::TwoHops)
    }
}
