//! The contestants: redirectors, each with a proxy behind it.

use serde::{Deserialize, Serialize};

/// A redirector and the proxy behind it. The order is that of tables and charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// No redirector and no proxy: the client connects to the origin. This is the limit of
    /// loopback.
    Direct,
    /// No redirector: the client connects to the minimal relay. This is the limit of any relay.
    TwoHops,
    /// Sidetrack with `sidetrack proxy`, as `sidetrack run --via inspect` starts it.
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
        }
    }

    /// Whether Sidetrack is the redirector.
    pub(crate) fn is_sidetrack(self) -> bool {
        matches!(self, Self::Sidetrack | Self::HaproxyBehind | Self::Chain(_))
    }

    /// Whether a redirector diverts the connections.
    pub(crate) fn has_redirector(self) -> bool {
        !matches!(self, Self::Direct | Self::TwoHops)
    }
}
