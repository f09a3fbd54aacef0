//! Who is measured.

use serde::{Deserialize, Serialize};

/// A redirector and the proxy behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// Straight to the origin: the limit of loopback.
    Direct,
    /// The client connects to a minimal relay by itself: the limit of any relay, with no redirector.
    TwoHops,
    /// `sidetrack proxy`, as `sidetrack run --via inspect` starts it.
    Sidetrack,
    /// nftables and HAProxy, with splice.
    HaproxySplice,
    /// nftables and HAProxy, without.
    Haproxy,
    /// nftables and nginx's `stream`, which is told the origin.
    Nginx,
    /// nftables, redsocks, and a SOCKS proxy (microsocks): one hop more.
    Redsocks,
    /// nftables and socat, which is told the origin.
    Socat,
    /// nftables and mitmproxy.
    Mitmproxy,
    /// HAProxy as it is (with splice) behind Sidetrack instead of nftables.
    HaproxyBehind,
    /// nftables and the minimal relay.
    NftMinimal,
    /// So many of `sidetrack proxy`, one after another.
    Chain(u32),
}

impl Contestant {
    /// As in results.json.
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

    /// Whether Sidetrack diverts to it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Sidetrack | Self::HaproxyBehind | Self::Chain(_))
    }

    /// Whether there is no redirector.
    pub(crate) fn is_straight(self) -> bool {
        matches!(self, Self::Direct | Self::TwoHops)
    }
}
