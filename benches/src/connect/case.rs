//! The cases: what stands between the client and the listener.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What stands between the client and the listener. Each round runs the cases in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ConnectCase {
    /// No program is attached and no rule is loaded: the cost of the kernel itself.
    None,
    /// Sidetrack redirects. The query reads the option INFO.
    Sidetrack,
    /// nftables redirects. The query reads SO_ORIGINAL_DST.
    Nft,
    /// The client is in Sidetrack's scope, and no filter matches.
    Unmatched,
    /// Sidetrack is attached to a cgroup that contains neither client nor listener.
    Outside,
    /// An nftables NAT rule is loaded that does not match.
    NftUnmatched,
    /// The client is in the scope, and none of 10 filters matches.
    Filters10,
    /// The client is in the scope, and none of 1,000 filters matches.
    Filters1000,
    /// The client is in the scope, and none of 100,000 filters matches.
    Filters100000,
    /// None of 10,000 nftables NAT rules matches; nftables evaluates one after another.
    NftLinear,
    /// One nftables NAT rule with a set of 10,000 elements does not match.
    NftSet,
    /// A sockops program that does nothing is attached to a cgroup that contains neither client nor
    /// listener.
    EmptyElsewhere,
    /// Programs that do nothing are attached at sockops and connect of the client's cgroup.
    EmptyInScope,
}

impl ConnectCase {
    /// All cases, in the order of a round.
    pub(crate) const ALL: [Self; 13] = [
        Self::None,
        Self::Sidetrack,
        Self::Nft,
        Self::Unmatched,
        Self::Outside,
        Self::NftUnmatched,
        Self::Filters10,
        Self::Filters1000,
        Self::Filters100000,
        Self::NftLinear,
        Self::NftSet,
        Self::EmptyElsewhere,
        Self::EmptyInScope,
    ];

    /// The name in results.json and on the command line of the worker.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sidetrack => "sidetrack",
            Self::Nft => "nft",
            Self::Unmatched => "unmatched",
            Self::Outside => "outside",
            Self::NftUnmatched => "nft-unmatched",
            Self::Filters10 => "filters10",
            Self::Filters1000 => "filters1000",
            Self::Filters100000 => "filters100000",
            Self::NftLinear => "nft-linear",
            Self::NftSet => "nft-set",
            Self::EmptyElsewhere => "empty-elsewhere",
            Self::EmptyInScope => "empty-in-scope",
        }
    }

    /// The name in tables and charts.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::None => "direct, nothing attached",
            Self::Sidetrack => "redirected by Sidetrack",
            Self::Nft => "redirected by nftables",
            Self::Unmatched => "in Sidetrack's scope, no filter matches",
            Self::Outside => "Sidetrack attached elsewhere",
            Self::NftUnmatched => "nftables NAT, no rule matches",
            Self::Filters10 => "under 10 filters, none matches",
            Self::Filters1000 => "under 1,000 filters, none matches",
            Self::Filters100000 => "under 100,000 filters, none matches",
            Self::NftLinear => "nftables, 10,000 rules, none matches",
            Self::NftSet => "nftables, a set of 10,000, none matches",
            Self::EmptyElsewhere => "an empty sockops program elsewhere",
            Self::EmptyInScope => "empty programs in the scope",
        }
    }
}
