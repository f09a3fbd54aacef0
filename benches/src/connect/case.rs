//! What is measured: each case is one way for a connection to go.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way for connections to go. Cases are run in this order, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// No program attached, no rule: what the kernel itself takes.
    None,
    /// Redirected by Sidetrack, and asked for by INFO.
    Sidetrack,
    /// Redirected by nftables, and asked for by SO_ORIGINAL_DST.
    Nft,
    /// In Sidetrack's scope, but no filter matches.
    Unmatched,
    /// Sidetrack is attached, but elsewhere.
    Outside,
    /// An nftables NAT rule is there that does not match.
    NftUnmatched,
    /// In scope, under 10 filters of which none matches.
    Filters10,
    /// Under 1,000.
    Filters1000,
    /// Under 100,000.
    Filters100000,
    /// 10,000 nftables NAT rules, one after another, of which none matches.
    NftLinear,
    /// One nftables NAT rule with a set of 10,000.
    NftSet,
    /// A program that does nothing is at sockops, but elsewhere.
    EmptyElsewhere,
    /// Programs that do nothing are at the client's sockops and connect.
    EmptyInScope,
}

impl Case {
    /// All of them.
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

    /// As in results.json and on the command line.
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

    /// For people.
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
